// Purifiers: of the victim's activations, and of its images.

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include <refine/attacks/published.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/baselines/purifiers.hpp>
#include <refine/baselines/substitutes.hpp>
#include <refine/core/random.hpp>
#include <refine/data/sources.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/export/export_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/checkpoint.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/any_transform.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::baselines {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

data::Dataset shapes(std::int64_t n) {
  return data::Synthetic{.task = {{3, 16, 16}, 3}, .train = n, .test = 0}.make().train;
}

backbones::ResNet18<> trained_network(const data::Dataset& set, int epochs) {
  ClassifierRecipe recipe = recipes::fast_classifier;
  recipe.augmentation = {};
  recipe.optimization.epochs = epochs;
  recipe.optimization.batch_size = 16;
  return train_classifier(backbones::ResNet18<>{.task = set.task(), .width = 4}, set, recipe);
}

/// Two pixels, whose logits they are.
struct TwoPixels {
  static constexpr bool frozen = true;
  Task task = {{1, 1, 2}, 2};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("TwoPixels");

  at::Tensor forward(const at::Tensor& images) const { return images.flatten(1); }
};

// ---- polarize ----

TEST(Polarized, UntrainedLayer_IsTheIdentity) {
  const data::Dataset set = shapes(8);
  const auto victim = freeze(trained_network(set, 1));
  const Polarized network{
      .victim = victim, .stage = 2, .module = std::make_shared<detail::PolarizedModule>(victim.module, 16)};
  static_assert(backbones::FrozenBackbone<std::remove_const_t<decltype(network)>>);
  const at::Tensor images = data::to_float(set.images);
  EXPECT_LT((network.forward(images) - victim.forward(images)).abs().max().item<float>(), 1e-5);
  EXPECT_NE(nn::describe(network).find("stage 2"), std::string::npos);
}

TEST(AttackTowards, Images_AreChangedByStepsWithinTheBall) {
  const at::Tensor images = at::tensor(std::vector<float>{0.5, 0.5, 0.95, 0.5}).view({2, 1, 1, 2});
  const at::Tensor targets = at::tensor(std::vector<std::int64_t>{1, 0});
  // One step lowers one pixel and raises the other by 0.1, to at most 1.
  const auto changed =
      detail::attack_towards(TwoPixels{}, images, targets, {.radius = 3, .step = 0.1, .steps = 1});
  const at::Tensor expected = at::tensor(std::vector<float>{0.4, 0.6, 1, 0.4}).view({2, 1, 1, 2});
  EXPECT_LT((changed - expected).abs().max().item<float>(), 1e-6);
  // In a ball of radius 0.05·√2, each pixel moves by 0.05.
  const auto near = detail::attack_towards(TwoPixels{}, images, targets,
                                           {.radius = 0.05 * std::sqrt(2.0), .step = 0.1, .steps = 3});
  EXPECT_NEAR(near[0][0][0][1].item<double>(), 0.55, 1e-5);
  EXPECT_FALSE(changed.requires_grad());
}

TEST(LikeliestWrong, Class_IsTheSecondOfWhatIsRightAndTheFirstOfWhatIsWrong) {
  const at::Tensor logits = at::tensor(std::vector<float>{3, 1, 2, 3, 1, 2}).view({2, 3});
  const at::Tensor wrong = detail::likeliest_wrong(logits, at::tensor(std::vector<std::int64_t>{0, 1}));
  EXPECT_TRUE(wrong.equal(at::tensor(std::vector<std::int64_t>{2, 0})));
}

TEST(Polarize, Layer_ResistsAttacksAndLeavesTheVictim) {
  const data::Dataset set = shapes(96);
  const auto victim = freeze(trained_network(set, 12));
  const at::Tensor images = data::to_float(set.images), before = victim.forward(images).detach().clone();
  PolarizerOptions options{.radius = 4, .step = 0.2};
  options.recipe.optimization.epochs = 25;
  options.recipe.optimization.batch_size = 16;
  const auto network = polarize(victim, set, options);
  EXPECT_TRUE(victim.forward(images).equal(before)) << "the victim was changed";
  PolarizerOptions plain = options;
  plain.weight = 0;
  const auto loss_of = [&](const auto& classifier) {
    const at::Tensor targets = detail::likeliest_wrong(classifier.forward(images).detach(), set.labels);
    const at::Tensor attacked = detail::attack_towards(classifier, images, targets, options);
    return at::cross_entropy_loss(classifier.forward(attacked), set.labels).template item<double>();
  };
  EXPECT_LT(loss_of(network), 0.9 * loss_of(polarize(victim, set, plain)));
  EXPECT_LT(loss_of(network), 0.8 * loss_of(victim));
  const double accuracy =
      network.forward(images).argmax(1).eq(set.labels).to(at::kFloat).mean().item<double>();
  EXPECT_GT(accuracy, before.argmax(1).eq(set.labels).to(at::kFloat).mean().item<double>() - 0.1);
}

TEST(Polarize, Substitute_IsExported) {
  const data::Dataset set = shapes(8);
  const auto victim = freeze(trained_network(set, 1));
  PolarizerOptions options;
  options.recipe.optimization.epochs = 2;
  options.recipe.optimization.lr = 0.1;
  const Substitute defense{victim, polarize(victim, set, options)};
  static_assert(DefendedClassifier<std::remove_const_t<decltype(defense)>>);
  const testing::ScratchFolder folder;
  export_defense(defense, folder.path / "served.pt");
  const ExportedClassifier served(folder.path / "served.pt");
  const at::Tensor images = data::to_float(set.images);
  EXPECT_LT((served.forward(images) - defense.forward(images)).abs().max().item<float>(), 1e-5);
  EXPECT_GT((defense.forward(images) - victim.forward(images)).abs().max().item<float>(), 1e-3);
}

TEST(Polarize, InterruptedTraining_ContinuesBitForBit) {
  const data::Dataset set = shapes(24);
  const auto victim = freeze(trained_network(set, 1));
  PolarizerOptions options;
  options.recipe.optimization.epochs = 4;
  options.recipe.optimization.batch_size = 8;
  const testing::ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path / "checkpoints", .resume = true};
  struct StopAfterFive {
    int taken = 0;
    void on_step(const StepInfo&) { ++taken; }
    bool stop_requested() const { return taken >= 5; }
  };
  EXPECT_THROW(polarize(victim, set, options, checkpoint, StopAfterFive{}), Stopped);
  const auto resumed = polarize(victim, set, options, checkpoint), whole = polarize(victim, set, options);
  const at::Tensor images = data::to_float(set.images);
  EXPECT_TRUE(resumed.forward(images).equal(whole.forward(images)));
  options.radius = 1;
  expect_words(error_of([&] { polarize(victim, set, options, checkpoint); }), {"network"});
}

TEST(Polarize, WrongOptionsOrNetwork_Throw) {
  const data::Dataset set = shapes(4);
  const auto victim = freeze(trained_network(set, 1));
  const auto refuse = [&](const PolarizerOptions& options) {
    return error_of([&] { polarize(victim, set, options); });
  };
  expect_words(refuse({.stage = 4}), {"PolarizerOptions.stage", "got 4", "has 4"});
  expect_words(refuse({.stage = -5}), {"got -5"});
  expect_words(refuse({.weight = NAN}), {"weight", "got nan"});
  expect_words(refuse({.radius = 0}), {"radius", "got 0"});
  expect_words(refuse({.step = 2}), {"step", "got 2"});
  expect_words(refuse({.steps = 0}), {"steps", "got 0"});
  const data::Dataset other{
      at::zeros({2, 1, 1, 2}, at::kByte), at::tensor(std::vector<std::int64_t>{0, 1}), {"a", "b"}};
  expect_words(error_of([&] { polarize(TwoPixels{}, other); }), {"has 0", "Staged"});
  expect_words(error_of([&] { polarize(victim, other); }), {"polarize", "1x1x2", "3x16x16"});
  EXPECT_THROW(polarize(victim, set.first(0)), Error) << "no images";
}

// ---- train_purifier ----

/// A backdoored victim. Its first feature is the brightness of the left half, which decides between dark (0) and
/// bright (1); its second is by how much the last pixel is brighter than the one before. By more than a third, it makes
/// every image "dark".
struct Backdoored {
  struct Module : torch::nn::Module, backbones::Staged {
    int stages() const override { return 1; }
    at::Tensor forward(const at::Tensor& images) const {
      const at::Tensor left = images.narrow(3, 0, 4).mean({1, 2, 3}), last = images.select(2, 7).select(1, 0);
      const at::Tensor edge = at::relu(last.select(1, 7) - last.select(1, 6));
      const at::Tensor features = after_stage(0, at::stack({left, edge}, 1).view({-1, 2, 1, 1}));
      const at::Tensor bright = 12 * (features.select(1, 0) - 0.5) - 8 * features.select(1, 1);
      return at::cat({-bright, bright}, 1).flatten(1);
    }
  };
  static constexpr bool frozen = true;
  Task task = {{1, 8, 8}, 2};
  std::shared_ptr<Module> module = std::make_shared<Module>();

  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }
};

/// Images whose left half is dark or bright, and whose right half is noise; the last two pixels are alike.
data::Dataset halves(std::int64_t n) {
  data::Dataset set;
  nn::with_torch_seed(3, [&] {
    set.labels = at::arange(n).remainder(2);
    at::Tensor images = at::rand({n, 1, 8, 8});
    images.narrow(3, 0, 4).copy_(0.2 + 0.5 * set.labels.view({-1, 1, 1, 1}) + 0.1 * at::rand({n, 1, 8, 4}));
    const at::Tensor last = images.select(2, 7);
    last.select(2, 6).copy_((last.select(2, 7) + 0.3 * at::rand({n, 1}) - 0.15).clamp(0, 1));
    set.images = data::to_bytes(images);
  });
  set.classes = {"dark", "bright"};
  return set;
}

InversionOptions small_options() {
  return {.rounds = 2,
          .first_epochs = 40,
          .mask_epochs = 40,
          .generator_epochs = 30,
          .purifier_epochs = 30,
          .lr = 5e-3,
          .mask_lr = 0.1,
          .share = 0.5,
          .batch_size = 16,
          .augmentation = {}};
}

at::Tensor with_trigger(const at::Tensor& images) {
  at::Tensor triggered = images.clone();
  triggered.select(3, 7).select(2, 7).fill_(1);
  triggered.select(3, 6).select(2, 7).fill_(0);
  return triggered;
}

/// A transform that adds the trigger, or nothing.
struct Generator {
  bool triggers = true;
  ImageShape image = {1, 8, 8};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Generator");

  at::Tensor forward(const at::Tensor& images) const { return triggers ? with_trigger(images) : images; }
};

/// The steps of an inversion of `Backdoored`.
struct Steps {
  data::Dataset set = halves(64);
  data::TrainingSet training{set};
  InversionOptions options = small_options();
  transforms::AnyTransform purifier = transforms::UNet<>{.image = {1, 8, 8}, .levels = 1, .width = 8};
  decltype(detail::inversion_trainer(training, options)) train = detail::inversion_trainer(training, options);
  detail::Inversion<transforms::AnyTransform, Backdoored, decltype(train)> inversion{purifier, Backdoored{},
                                                                                     set, options, train};
};

TEST(Inversion, Mask_KeepsTheFeaturesThatTheLabelsNeed) {
  Steps steps;
  steps.inversion.learn_mask(0);
  const at::Tensor mask = steps.inversion.benign.flatten();
  EXPECT_GT(mask[0].item<double>(), 0.8) << "the left half";
  EXPECT_LT(mask[1].item<double>(), 0.4) << "the last two pixels";
}

TEST(Inversion, Generator_MovesTheOtherFeaturesWithinItsBound) {
  Steps steps;
  steps.options.bound = 0.02;
  steps.inversion.benign = at::tensor(std::vector<float>{1, 0}).view({2, 1, 1});
  steps.inversion.reproduce();
  steps.inversion.generator = nn::deep_copy(steps.purifier);
  const at::Tensor images = data::to_float(steps.set.images);
  const auto edge_of = [](const at::Tensor& x) {
    return x.select(2, 7).select(2, 7) - x.select(2, 7).select(2, 6);
  };
  const auto moved_by = [&] {
    return (edge_of(steps.inversion.generator.forward(images)) - edge_of(images)).abs().mean().item<double>();
  };
  const double before = moved_by();
  steps.inversion.learn_generator(0);
  EXPECT_GT(moved_by(), before + 0.1);
  EXPECT_LT((steps.inversion.generator.forward(images) - images).square().mean().item<double>(), 0.03);
}

TEST(Inversion, Purifier_RemovesWhatTheGeneratorAdds) {
  const auto dark_share = [](bool triggers) {
    Steps steps;
    steps.inversion.reproduce();
    steps.inversion.generator = Generator{.triggers = triggers};
    steps.inversion.learn_purifier(0);
    const at::Tensor images = data::to_float(steps.set.images);
    const Backdoored victim;
    EXPECT_TRUE(victim.forward(with_trigger(images)).argmax(1).eq(0).all().item<bool>())
        << "the backdoor works";
    const at::Tensor answers = victim.forward(steps.purifier.forward(images)).argmax(1);
    EXPECT_GT(answers.eq(steps.set.labels).to(at::kFloat).mean().item<double>(), 0.95);
    const at::Tensor bright = (steps.set.labels == 1).nonzero().flatten();
    const at::Tensor triggered = steps.purifier.forward(with_trigger(images.index_select(0, bright)));
    return victim.forward(triggered).argmax(1).eq(0).to(at::kFloat).mean().item<double>();
  };
  EXPECT_LT(dark_share(true), 0.2);
  EXPECT_GT(dark_share(false), 0.8) << "a purifier that has seen no trigger lets it pass";
}

TEST(TrainPurifier, Purifier_IsTrainedInPlaceAndTheAnswersStay) {
  const data::Dataset set = halves(64);
  const transforms::UNet<> untrained{.image = {1, 8, 8}, .levels = 1, .width = 8};
  const auto purifier = train_purifier(untrained, Backdoored{}, set, small_options());
  EXPECT_EQ(purifier.module, untrained.module);
  EXPECT_FALSE(purifier.module->is_training());
  const Pipeline defense{purifier, Backdoored{}, remaps::None<>{.classes = 2}};
  const at::Tensor answers = defense.forward(data::to_float(set.images)).argmax(1);
  EXPECT_GT(answers.eq(set.labels).to(at::kFloat).mean().item<double>(), 0.95);
}

TEST(TrainPurifier, SameSeed_GivesTheSameWeights) {
  const data::Dataset set = halves(16);
  InversionOptions options = small_options();
  options.rounds = 1;
  options.first_epochs = options.mask_epochs = options.generator_epochs = options.purifier_epochs = 1;
  const auto weights = [&](std::uint64_t seed) {
    options.seed = seed;
    const auto purifier = train_purifier(transforms::UNet<>{.image = {1, 8, 8}, .levels = 1, .width = 2},
                                         Backdoored{}, set, options);
    return purifier.module->parameters().front().detach().clone();
  };
  EXPECT_TRUE(weights(1).equal(weights(1)));
  EXPECT_FALSE(weights(1).equal(weights(2)));
}

TEST(TrainPurifier, WrongOptionsOrNetworks_Throw) {
  const data::Dataset set = halves(4);
  const transforms::UNet<> purifier{.image = {1, 8, 8}, .levels = 1, .width = 2};
  const auto refuse = [&](const InversionOptions& options) {
    return error_of([&] { train_purifier(purifier, Backdoored{}, set, options); });
  };
  expect_words(refuse({.rounds = 0}), {"InversionOptions.rounds", "got 0"});
  expect_words(refuse({.mask_epochs = -1}), {"mask_epochs", "got -1"});
  expect_words(refuse({.lr = NAN}), {"InversionOptions.lr", "got nan"});
  expect_words(refuse({.bound = 0}), {"bound", "got 0"});
  expect_words(refuse({.share = 1.5}), {"share", "got 1.5"});
  expect_words(refuse({.noise = -1}), {"noise", "got -1"});
  expect_words(refuse({.batch_size = 1}), {"batch_size", "got 1"});
  expect_words(refuse({.augmentation = {.mix = 0.5}}), {"mix", "got 0.5"});
  const testing::ScratchFolder folder;
  expect_words(error_of([&] {
                 train_purifier(purifier, Backdoored{}, set, {},
                                Checkpoint{.path = folder.path / "checkpoints"});
               }),
               {"train_purifier", "Checkpoint"});
  const transforms::UNet<> coloured{.image = {3, 16, 16}, .levels = 1, .width = 2};
  expect_words(error_of([&] { train_purifier(coloured, Backdoored{}, set); }), {"1x8x8", "3x16x16"});
  expect_words(error_of([&] { train_purifier(purifier, Backdoored{}, shapes(4)); }),
               {"train_purifier", "3x16x16"});
}

// ---- The example of refine/baselines/README.md, with small options ----

TEST(Readme, Purifiers_AreMeasured) {
  constexpr Task task = {{3, 16, 16}, 3};
  const auto [labelled, test] = data::Synthetic{.task = task, .train = 12, .test = 12}.make();
  const auto frozen = freeze(trained_network(labelled, 1));
  const attacks::BadNets<task> attack{.target = 0};
  PolarizerOptions few;
  few.recipe.optimization.epochs = 1;
  const auto polarized = polarize(frozen, labelled, few);
  EXPECT_EQ(evaluate(Substitute{frozen, freeze(polarized)}, test, attack).after.ba.n, 12);
  const auto purifier = train_purifier(
      transforms::UNet<task>{.levels = 2, .width = 4}, frozen, labelled,
      {.rounds = 1, .first_epochs = 1, .mask_epochs = 1, .generator_epochs = 1, .purifier_epochs = 1});
  EXPECT_EQ(evaluate(Pipeline{purifier, frozen, remaps::None<task>{}}, test, attack).after.ba.n, 12);
}

}  // namespace
}  // namespace refine::baselines
