#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include <map>
#include <memory>
#include <string>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/transforms/freeze.hpp>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

constexpr Task task{ImageShape{3, 4, 4}, 4};

/// Two layers, of which the second may be unregistered.
template <bool registered>
struct TwoLayers {
  struct Module : torch::nn::Cloneable<Module> {
    Module() { reset(); }
    void reset() override {
      a = this->register_module("a", torch::nn::Linear(48, 16));
      b = registered ? this->register_module("b", torch::nn::Linear(16, 4)) : torch::nn::Linear(16, 4);
    }
    torch::nn::Linear a{nullptr}, b{nullptr};
  };
  Task task = refine::task;
  std::shared_ptr<Module> module = nn::with_torch_seed(3, [] { return std::make_shared<Module>(); });
  at::Tensor forward(const at::Tensor& x) const {
    return module->b->forward(module->a->forward(x.flatten(1)).relu());
  }
};

/// The pixels times a tensor, which may be an unregistered buffer.
template <bool registered>
struct Scaled {
  struct Module : torch::nn::Cloneable<Module> {
    Module() { reset(); }
    void reset() override {
      scale = at::full({1}, 0.5);
      if (registered) this->register_buffer("scale", scale);
    }
    at::Tensor scale;
  };
  ImageShape image = task.image;
  std::shared_ptr<Module> module = std::make_shared<Module>();
  at::Tensor forward(const at::Tensor& x) const { return x * module->scale; }
};

/// Counts its calls, also in evaluation mode, and answers by that number.
struct Counting {
  struct Module : torch::nn::Cloneable<Module> {
    Module() { reset(); }
    void reset() override { calls = register_buffer("calls", at::zeros({1})); }
    at::Tensor calls;
  };
  Task task = refine::task;
  std::shared_ptr<Module> module = std::make_shared<Module>();
  at::Tensor forward(const at::Tensor& x) const {
    module->calls += 1;
    return x.flatten(1).slice(1, 0, 4) + module->calls;
  }
};

TEST(Freeze, StateThatForwardChanges_IsLeftAsItWas) {
  const Counting source;
  const auto frozen = freeze(source);
  EXPECT_EQ(source.module->calls.item<float>(), 0);
  EXPECT_EQ(frozen.module->named_buffers()["calls"].item<float>(), 0);
}

struct ConstantsAreNotConst : Counting {
  std::map<std::string, at::Tensor> named_constants() { return {}; }
};
struct FeaturesTakeNothing : Counting {
  at::Tensor features() const { return {}; }
};
static_assert(backbones::Backbone<Counting>);
static_assert(!backbones::Backbone<ConstantsAreNotConst> && !backbones::Backbone<FeaturesTakeNothing>);

TEST(Freeze, LayerThatIsNotRegistered_IsRefused) {
  expect_words(error_of([] { freeze(TwoLayers<false>{}); }), {"cannot copy a module", "register_module"});
  expect_words(error_of([] { freeze(backbones::AnyBackbone{TwoLayers<false>{}}); }), {"register_module"});
  const TwoLayers<true> network;
  const at::Tensor images = at::rand({5, 3, 4, 4});
  EXPECT_LT((freeze(network).forward(images) - network.forward(images)).abs().max().item<double>(), 1e-5);

  TwoLayers<false> open;
  open.task.image.height = dynamic;
  EXPECT_EQ(error_of([&] { freeze(open); }), "") << "no image to ask about";
}

TEST(Freeze, TensorThatIsNotRegistered_IsRefused) {
  Scaled<false> transform;
  EXPECT_EQ(error_of([&] { freeze(transform); }), "") << "the clone makes the same tensor";
  transform.module->scale = at::full({1}, 0.6);
  // The largest of 96 pixels is close to 1, and is scaled by 0.5 instead of 0.6.
  expect_words(error_of([&] { freeze(transform); }), {"differ (by up to 0.1)", "register_buffer"});
  Scaled<true> kept;
  kept.module->scale.fill_(0.6);
  const at::Tensor images = at::rand({5, 3, 4, 4});
  EXPECT_TRUE(freeze(kept).forward(images).equal(kept.forward(images)));
}

/// A layer that `reset` removes.
struct MadeLater : TwoLayers<true> {
  struct Module : torch::nn::Cloneable<Module> {
    void reset() override { layer = nullptr; }
    torch::nn::Linear layer{nullptr};
  };
  std::shared_ptr<Module> module = [] {
    auto made = std::make_shared<Module>();
    made->layer = torch::nn::Linear(48, 4);
    return made;
  }();
  at::Tensor forward(const at::Tensor& x) const { return module->layer->forward(x.flatten(1)); }
};

TEST(Freeze, LayerThatTheCopyLacks_IsRefused) {
  expect_words(error_of([] { freeze(MadeLater{}); }), {"its copy cannot be called", "register_module"});
}

/// BatchNorm, and dropout in every mode.
struct Random {
  struct Module : torch::nn::Cloneable<Module> {
    Module() { reset(); }
    void reset() override {
      norm = register_module("norm", torch::nn::BatchNorm2d(3));
      still = register_module("still", torch::nn::Dropout(0.5));
    }
    torch::nn::BatchNorm2d norm{nullptr};
    torch::nn::Dropout still{nullptr};
  };
  ImageShape image = task.image;
  std::shared_ptr<at::Generator> generator = {};  ///< shared by copies, so that no two answers are the same
  std::shared_ptr<Module> module = std::make_shared<Module>();
  at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor y = module->still->forward(module->norm->forward(x));
    return generator ? y * at::rand(y.sizes(), *generator) : at::dropout(y, 0.5, /*train=*/true);
  }
};

TEST(Freeze, NetworkThatDraws_IsCopiedAndNothingElseChanges) {
  const Random network;
  network.module->train();
  network.module->still->eval();
  const at::Tensor mean = network.module->norm->running_mean.clone();
  at::manual_seed(7);
  const at::Tensor next = at::rand({4});
  at::manual_seed(7);
  EXPECT_EQ(error_of([&] { freeze(network); }), "");
  EXPECT_TRUE(at::rand({4}).equal(next));
  EXPECT_TRUE(network.module->norm->running_mean.equal(mean));
  EXPECT_EQ(network.module->norm->num_batches_tracked.item<std::int64_t>(), 0);
  EXPECT_TRUE(network.module->is_training());
  EXPECT_TRUE(network.module->norm->is_training());
  EXPECT_FALSE(network.module->still->is_training());

  const Random chance{.generator = std::make_shared<at::Generator>(at::detail::createCPUGenerator(1))};
  EXPECT_EQ(error_of([&] { freeze(chance); }), "") << "its answers cannot be compared";
}

/// A network of half precision, and one whose answers are not finite.
struct Half : TwoLayers<true> {
  at::Tensor forward(const at::Tensor& x) const {
    return TwoLayers<true>::forward(x.to(module->a->weight.scalar_type()));
  }
};

struct NotFinite : TwoLayers<true> {
  at::Tensor forward(const at::Tensor& x) const { return TwoLayers<true>::forward(x).sub(1e9).exp().log(); }
};

TEST(Freeze, HalfOrInfiniteAnswers_AreCompared) {
  const Half half;
  half.module->to(at::kHalf);
  EXPECT_EQ(error_of([&] { freeze(half); }), "");
  EXPECT_EQ(error_of([] { freeze(NotFinite{}); }), "");
  EXPECT_EQ(error_of([] {
              const Half wrong;  // it fails when it is called, and not here
              wrong.module->b->to(at::kHalf);
              freeze(wrong);
            }),
            "");
}

struct NullBackbone {
  Task task = refine::task;
  std::shared_ptr<torch::nn::LinearImpl> module;
  at::Tensor forward(const at::Tensor& x) const { return module->forward(x.flatten(1)); }
};

TEST(Freeze, NullModule_IsRefused) {
  expect_words(error_of([] { freeze(NullBackbone{}); }), {"module must not be null"});
  expect_words(error_of([] { freeze(Scaled<true>{.module = nullptr}); }), {"module must not be null"});
  expect_words(error_of([] { backbones::AnyBackbone{NullBackbone{}}; }),
               {"backbone.module must not be null"});
}

}  // namespace
}  // namespace refine
