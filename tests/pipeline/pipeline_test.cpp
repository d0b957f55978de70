#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/nn/cloneable.h>

#include <refine/backbones/backbones.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/transforms.hpp>
#include <refine/transforms/unet.hpp>
#include <string>
#include <utility>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;
using Names = std::vector<std::int64_t>;

// The parts of this test: a few lines each, and of known arithmetic.

/// x → x².
struct Square {
  ImageShape image = {};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Square");
  at::Tensor forward(const at::Tensor& images) const { return images * images; }
};

/// Logit c is the mean of channel c.
struct Means {
  struct Module : torch::nn::Cloneable<Module> {
    void reset() override {}
  };
  Task task = {{3, dynamic, dynamic}, 3};
  std::shared_ptr<Module> module = std::make_shared<Module>();
  at::Tensor forward(const at::Tensor& images) const { return images.mean({2, 3}); }
};

struct Named {
  int classes = 3;
  Names permutation = {1, 2, 0};
};

static_assert(transforms::Transform<Square>);
static_assert(backbones::Backbone<Means> && !backbones::FrozenBackbone<Means>);
static_assert(backbones::FrozenBackbone<backbones::Frozen<Means>>);
static_assert(remaps::Remap<Named>);

void expect_near(const at::Tensor& a, const at::Tensor& b) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LT((a - b).abs().max().item<double>(), 1e-6);
}

/// A module whose only tensor is a buffer, and which notes that it was moved.
struct OneBuffer : torch::nn::Cloneable<OneBuffer> {
  struct Holder : torch::nn::Module {
    explicit Holder(at::Device device) { register_buffer("x", at::zeros({1}, at::TensorOptions(device))); }
  };
  OneBuffer() { reset(); }
  void reset() override { register_module("holder", std::make_shared<Holder>(at::kCPU)); }
  void to(at::Device device, bool = false) override {
    replace_module("holder", std::make_shared<Holder>(device));
    ++moves;
  }
  int moves = 0;
};

struct BufferedMeans {
  Task task = {{3, dynamic, dynamic}, 3};
  std::shared_ptr<OneBuffer> module = std::make_shared<OneBuffer>();
  at::Tensor forward(const at::Tensor& images) const { return images.mean({2, 3}); }
};

struct BufferedSquare {
  ImageShape image = {};
  std::shared_ptr<OneBuffer> module = std::make_shared<OneBuffer>();
  at::Tensor forward(const at::Tensor& images) const { return images * images; }
};

TEST(PipelineDevice, NetworksOfBuffersOnly_IsTheirDevice) {
  const auto frozen = freeze(BufferedMeans{});
  frozen.module->to(at::kMeta);
  const Pipeline defense{BufferedSquare{}, frozen, Named{}};
  EXPECT_EQ(defense.device(), at::Device(at::kMeta));
  EXPECT_EQ(nn::device_of(*defense.transform().module), at::Device(at::kMeta));
}

TEST(PipelineDevice, CopyWasMoved_IsItsDevice) {
  Pipeline defense{BufferedSquare{}, freeze(BufferedMeans{}), Named{}};
  const Pipeline copy = defense;
  EXPECT_EQ(copy.device(), at::Device(at::kCPU));
  defense.to(at::kMeta);
  EXPECT_EQ(copy.device(), at::Device(at::kMeta));

  // One that shares the victim alone is in two parts now, and says so.
  defense.to(at::kCPU);
  Pipeline other{BufferedSquare{}, defense.backbone(), Named{}};
  defense.to(at::kMeta);
  const std::string line = error_of([&] { (void)other.device(); });
  refine::testing::expect_words(line, {"transform is on cpu", "backbone is on meta", "defense.to(device)"});
  other.to(at::kMeta);  // what it says to do
  EXPECT_EQ(other.device(), at::Device(at::kMeta));

  // Without tensors, where it was sent.
  Pipeline none{Square{}, freeze(Means{}), Named{}};
  none.to(at::kMeta);
  EXPECT_EQ(none.device(), at::Device(at::kMeta));
}

/// Draws twice as large.
struct Doubled {
  ImageShape image = {3, 4, 4}, output_shape = {3, 8, 8};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Doubled");
  at::Tensor forward(const at::Tensor& images) const {
    return images.repeat_interleave(2, 2).repeat_interleave(2, 3);
  }
};

/// Means that are defined for 4×4 pixels alone, as of a network with a linear layer on all of them.
struct MeansOf4x4 {
  static constexpr bool frozen = true;
  Task task = {{3, 4, 4}, 3};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("MeansOf4x4");
  at::Tensor forward(const at::Tensor& images) const { return images.reshape({-1, 3, 16}).mean(2); }
};

struct AnyMeans : MeansOf4x4 {
  at::Tensor forward(const at::Tensor& images) const { return images.mean({2, 3}); }
};

TEST(PipelineForward, TransformThatDrawsAnotherSize_AsksTheVictimWithIt) {
  const Pipeline defense{Doubled{}, AnyMeans{}, Named{}};
  EXPECT_EQ(defense.task(), (Task{{3, 4, 4}, 3}));
  const at::Tensor images = at::rand({2, 3, 4, 4});
  EXPECT_EQ(defense.transformed(images).sizes(), (std::vector<std::int64_t>{2, 3, 8, 8}));
  expect_near(defense.forward(images), images.mean({2, 3}).index_select(1, at::tensor({2, 0, 1})));
  expect_near(defense.undefended(images), images.mean({2, 3}));
  expect_near(defense.draw(images).images, defense.transformed(images));
}

TEST(Pipeline, VictimThatDoesNotTakeTheDrawnSize_IsRefused) {
  refine::testing::expect_words(error_of([] {
                                  Pipeline{Doubled{}, MeansOf4x4{}, Named{}};
                                }),
                                {"draws 3x8x8", "no size other than 3x4x4", "output_shape", "--draw 4"});
  Pipeline{Doubled{.output_shape = {3, 4, 4}}, MeansOf4x4{}, Named{}};  // what it says to do
  refine::testing::expect_words(error_of([] {
                                  Pipeline{Doubled{.output_shape = {1, 8, 8}}, AnyMeans{}, Named{}};
                                }),
                                {"draws 1x8x8", "takes 3x4x4", "channels"});
}

/// Logits of as many classes as it is given, whatever its task has.
struct Logits {
  static constexpr bool frozen = true;
  Task task = {{3, 4, 4}, 3};
  int width = 3;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Logits");
  at::Tensor forward(const at::Tensor& images) const { return images.flatten(1).narrow(1, 0, width); }
};

TEST(Pipeline, BackboneWithLogitsOfOtherClasses_IsRefused) {
  for (const int width : {5, 2}) {
    expect_words(error_of([&] {
                   Pipeline{Square{}, Logits{.width = width}, Named{}};
                 }),
                 {"Pipeline", "backbone", "2×3", "task", "got 2×" + std::to_string(width)});
  }
  EXPECT_EQ(error_of([] { Pipeline{Square{}, Logits{}, Named{}}; }), "");
  EXPECT_EQ(error_of([] {
              Pipeline{Square{}, Logits{.task = {{3, dynamic, 4}, 3}, .width = 5}, Named{}};
            }),
            "")
      << "no image to ask about";
}

struct NullMeans : Means {
  static constexpr bool frozen = true;
  NullMeans() { module = nullptr; }
};

TEST(Pipeline, NullBackbone_IsRefused) {
  expect_words(error_of([] {
                 Pipeline{Square{}, NullMeans{}, Named{}};
               }),
               {"backbone.module must not be null"});
}

TEST(Pipeline, MovedFrom_IsStillAPipeline) {
  Pipeline defense{Square{}, freeze(Means{}), Named{}};
  const auto moved = std::move(defense);
  const at::Tensor images = at::rand({2, 3, 4, 4});
  defense.to(at::kCPU);
  EXPECT_TRUE(defense.device().is_cpu());
  EXPECT_EQ(defense.remap().permutation, (Names{1, 2, 0}));
  expect_near(defense.forward(images), moved.forward(images));
  expect_near(defense.served_parts().transform(images), images.square());
  defense = Pipeline(moved);
  EXPECT_EQ(defense.transform().module, moved.transform().module);
}

TEST(PipelineForward, ImagesOfBytes_AreRefused) {
  const Pipeline defense{Square{}, freeze(Means{}), Named{}};
  const at::Tensor bytes = at::zeros({2, 3, 4, 4}, at::kByte);
  expect_words(error_of([&] { defense.forward(bytes); }), {"float in [0, 1]", "got Byte", "data::to_float"});
  expect_words(error_of([&] { defense.undefended(bytes); }), {"got Byte"});
  expect_words(error_of([&] { defense.alarm(at::Tensor()); }), {"got an undefined tensor"});
}

TEST(PipelineTo, NetworksAreOnTheDevice_OnlyReadsThem) {
  Pipeline defense{BufferedSquare{}, freeze(BufferedMeans{}), Named{}};
  defense.to(at::kCPU);
  EXPECT_EQ(defense.transform().module->moves, 0);
  EXPECT_EQ(defense.backbone().module->moves, 0);
}

TEST(Pipeline, Forward_IsRemapOfBackboneOfTransform) {
  const Pipeline defense{Square{}, freeze(Means{}), Named{}};
  const at::Tensor images = at::rand({4, 3, 6, 5});
  const at::Tensor logits = defense.forward(images);
  for (std::int64_t n = 0; n < 4; ++n) {
    for (std::int64_t c = 0; c < 3; ++c) {  // what the victim calls c is called c + 1
      EXPECT_NEAR(logits[n][(c + 1) % 3].item<double>(), images[n][c].square().mean().item<double>(), 1e-6);
    }
  }
  expect_near(defense.transformed(images), images.square());
  expect_near(defense.classify_transformed(images), remaps::apply(Named{}, images.mean({2, 3})));
  expect_near(defense.undefended(images), images.mean({2, 3}));
}

TEST(Pipeline, NullPolicies_IsTheBackbone) {
  const Pipeline plain{transforms::None<>{}, freeze(Means{}), remaps::None<>{.classes = 3}};
  const at::Tensor images = at::rand({4, 3, 6, 5});
  expect_near(plain.forward(images), images.mean({2, 3}));
}

TEST(Pipeline, ReferencePixelDomain_NormalisesBeforeTheTransform) {
  const Normalization by = {.mean = {0.1, 0.2, 0.3}, .deviation = {0.5, 0.6, 0.7}};
  const auto frozen = freeze(backbones::Normalized(Means{}, by));
  const at::Tensor images = at::rand({4, 3, 6, 5});
  at::Tensor normalised = images.clone();
  for (int c = 0; c < 3; ++c) {
    const auto channel = static_cast<std::size_t>(c);
    normalised.select(1, c).sub_(by.mean[channel]).div_(by.deviation[channel]);
  }

  // The transform sees normalised images, the backbone takes what comes out as it is.
  const Pipeline reference{Square{}, frozen, Named{}, PixelDomain::reference};
  expect_near(reference.transformed(images), normalised.square());
  expect_near(reference.forward(images), remaps::apply(Named{}, normalised.square().mean({2, 3})));
  expect_near(reference.undefended(images), normalised.mean({2, 3}));

  // By default the backbone normalises what the transform returns.
  const Pipeline usual{Square{}, frozen, Named{}};
  EXPECT_EQ(usual.domain(), PixelDomain::image);
  const at::Tensor logits = usual.forward(images);
  for (std::int64_t c = 0; c < 3; ++c) {
    const auto channel = static_cast<std::size_t>(c);
    const double mean = images[0][c].square().mean().item<double>();
    EXPECT_NEAR(logits[0][(c + 1) % 3].item<double>(), (mean - by.mean[channel]) / by.deviation[channel],
                1e-5);
  }
  expect_words(error_of([] { Pipeline(Square{}, freeze(Means{}), Named{}, PixelDomain::reference); }),
               {"PixelDomain::reference", "a backbone that normalises", "backbones::Normalized",
                "before freezing it"});
}

TEST(Pipeline, PartsDisagree_ThrowsTheMessageOfTheCompiler) {
  constexpr Message classes = detail::check_parts({3, 32, 32}, {{3, 32, 32}, 10}, 50);
  static_assert(
      classes.view() ==
      "Pipeline: the remap renames 50 classes, but the backbone predicts 10; give both the same Task");
  constexpr Message shapes = detail::check_parts({3, 28, 28}, {{3, 32, 32}, 10}, 10);
  static_assert(
      shapes.view() ==
      "Pipeline: the transform rewrites 3x28x28 images, but the backbone takes 3x32x32; give both the same Task");
  const auto victim = freeze(Means{.task = {{3, 32, 32}, 10}});
  EXPECT_EQ(error_of([&] { Pipeline(Square{}, victim, remaps::Shift<>{.classes = 50}); }), classes.view());
  EXPECT_EQ(error_of([&] {
              Pipeline(Square{.image = {3, 28, 28}}, victim, remaps::Shift<>{.classes = 10});
            }),
            shapes.view());
  EXPECT_NO_THROW(Pipeline(Square{.image = {3, dynamic, 32}}, Logits{.task = {{3, 32, 32}, 10}, .width = 10},
                           remaps::Shift<>{.classes = 10}));
}

TEST(Pipeline, NotAPermutation_Throws) {
  const auto refused = [](Named remap) {
    return error_of([&] { Pipeline(Square{}, freeze(Means{}), remap); });
  };
  expect_words(refused({.permutation = {0, 1, 1}}), {"class 1", "twice", "0 to 2"});
  expect_words(refused({.permutation = {0, 1, 3}}), {"class 3", "out of range", "0 to 2"});
  EXPECT_NE(refused({.permutation = {0, 1}}).find("renames 2 classes, but the backbone predicts 3"),
            std::string::npos);
  EXPECT_NE(refused({.classes = dynamic, .permutation = {0, 1}}).find("renames 2 classes"),
            std::string::npos);
  EXPECT_EQ(refused({}), "");
}

TEST(Pipeline, SetPermutation_ReplacesThePermutation) {
  Pipeline defense{Square{}, freeze(Means{}), Named{}};
  const Pipeline copy = defense;
  const at::Tensor images = at::rand({2, 3, 4, 4}), victims = images.square().mean({2, 3});
  defense.set_permutation({2, 0, 1});
  EXPECT_EQ(defense.remap().permutation, (Names{2, 0, 1}));
  const at::Tensor renamed = defense.forward(images);
  expect_near(renamed.select(1, 2), victims.select(1, 0));
  expect_near(renamed.select(1, 0), victims.select(1, 1));
  expect_near(copy.forward(images).select(1, 1), victims.select(1, 0));

  EXPECT_NE(error_of([&] { defense.set_permutation({0, 1}); }), "");
  EXPECT_NE(error_of([&] { defense.set_permutation({0, 1, 1}); }), "");
  EXPECT_EQ(defense.remap().permutation, (Names{2, 0, 1})) << "a refused permutation changes nothing";
  expect_near(defense.forward(images), renamed);
}

TEST(Pipeline, Task_MergesWhatThePartsKnow) {
  constexpr Task task = tasks::cifar10;
  using Fixed = Pipeline<transforms::UNet<task>, backbones::Frozen<backbones::ResNet18<task>>,
                         remaps::Derangement<task>>;
  using Open = Pipeline<Square, backbones::Frozen<Means>, Named>;
  using Half = Pipeline<transforms::UNet<Task{ImageShape{3, dynamic, 32}}>, backbones::Frozen<Means>,
                        remaps::Derangement<Task{{}, 3}>>;
  static_assert(Fixed::static_task == task);
  static_assert(Open::static_task == dynamic_task);
  static_assert(Half::static_task == Task{{3, dynamic, 32}, 3});
  EXPECT_EQ((Open{Square{.image = {dynamic, 8, dynamic}}, freeze(Means{}), Named{}}.task()),
            (Task{{3, 8, dynamic}, 3}));
}

TEST(Pipeline, Backward_ReachesOnlyTheTransform) {
  constexpr Task task = {ImageShape{3, 8, 8}, 4};
  const Pipeline defense{transforms::UNet<task>{.levels = 1, .width = 2},
                         freeze(backbones::ResNet18<task>{.width = 1}), remaps::Derangement<task>{}};
  EXPECT_FALSE(defense.transform().module->is_training());
  EXPECT_TRUE(defense.device().is_cpu());
  const at::Tensor logits = defense.forward(at::rand({2, 3, 8, 8}));
  EXPECT_EQ(logits.sizes(), (std::vector<std::int64_t>{2, 4}));
  logits.sum().backward();
  for (const auto& p : defense.transform().module->parameters()) {
    EXPECT_TRUE(p.grad().defined());
    EXPECT_TRUE(p.dim() != 4 || p.is_contiguous(at::MemoryFormat::ChannelsLast));
  }
  for (const auto& p : defense.backbone().module->parameters()) EXPECT_FALSE(p.grad().defined());
}

// ---- The snippet of refine/pipeline/README.md ----

constexpr Task task = {ImageShape{3, 16, 16}, 10};

at::Tensor defended(const backbones::ResNet18<task>& victim, const at::Tensor& images) {
  auto defense =
      Pipeline{transforms::UNet<task>{.levels = 2, .width = 8}, freeze(victim), remaps::Derangement<task>{}};
  return defense.forward(images);  // logits, under their new names
}

TEST(Readme, Pipeline_IsBuilt) {
  EXPECT_EQ(defended(backbones::ResNet18<task>{.width = 2}, at::rand({2, 3, 16, 16})).sizes(),
            (std::vector<std::int64_t>{2, 10}));
}

TEST(Pipeline, FieldContradictsType_Throws) {
  constexpr Task cifar = tasks::cifar10;
  const auto victim = freeze(backbones::ResNet18<>{.task = {{3, 64, 64}, 10}, .width = 4});
  const transforms::UNet<cifar> transform{.image = {3, 64, 64}, .levels = 2, .width = 4};
  expect_words(error_of([&] {
                 Pipeline{transform, victim, remaps::Derangement<>{.classes = 10}};
               }),
               {"type of the transform", "3x32x32", "3x64x64", "omit the field"});
}

}  // namespace
}  // namespace refine
