#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/winograd/convolution.hpp>
#include <refine/winograd/detail/instruction_set.hpp>
#include <refine/winograd/detail/parallel.hpp>
#include <refine/winograd/detail/passes.hpp>

namespace refine::winograd {

#if defined(__x86_64__)
namespace detail {
// The arithmetic on sixteen floats at once, for processors that have eight: what is tested here of it is
// everything but the compiler's choice of instructions.
#pragma GCC diagnostic ignored "-Wpsabi"
#define REFINE_OPTIMIZED
#define REFINE_LANES_STRUCT SixteenOnAvx2
#define REFINE_TARGET "avx2,fma"
#define REFINE_LANES 16
#define REFINE_GRANULE 4
#include <refine/winograd/detail/lanes.inc>
#undef REFINE_OPTIMIZED
}  // namespace detail
#endif

namespace {

struct Case {
  std::int64_t images, in, out, height, width;
  friend std::ostream& operator<<(std::ostream& to, const Case& c) {
    return to << c.images << " images, " << c.in << " to " << c.out << " channels, " << c.height << "x"
              << c.width;
  }
};

// Few tiles and many, whole and cut ones, panels of one vector and of two, blocks of all heights.
const std::vector<Case> cases = {{2, 16, 16, 32, 32},
                                 {3, 32, 16, 16, 12},
                                 {1, 16, 48, 13, 30},
                                 {5, 24, 40, 9, 7},
                                 {1, 64, 96, 4, 4},
                                 {9, 16, 80, 5, 3},
                                 {7, 48, 64, 8, 8},
                                 {1, 16, 32, 1, 1},
                                 {2, 96, 16, 31, 2},
                                 {64, 16, 16, 4, 4},
                                 // so many tiles that they are taken in parts, odd numbers of them
                                 {1, 16, 16, 130, 130},
                                 {1, 144, 144, 52, 52},
                                 {3, 16, 88, 23, 21}};

struct Layer {
  at::Tensor x, weight, bias;

  explicit Layer(const Case& c) {
    x = at::randn({c.images, c.in, c.height, c.width}).contiguous(at::MemoryFormat::ChannelsLast);
    weight = at::randn({c.out, c.in, 3, 3}) / std::sqrt(9.0 * static_cast<double>(c.in));
    bias = at::randn({c.out});
  }

  Layer in_double() const {
    Layer copy = *this;
    for (at::Tensor* t : {&copy.x, &copy.weight, &copy.bias}) *t = t->detach().to(at::kDouble);
    return copy;
  }

  at::Tensor by_libtorch() const { return at::conv2d(x, weight, bias, 1, 1); }

  Layer& with_gradients() {
    for (at::Tensor* t : {&x, &weight, &bias}) t->requires_grad_(true);
    return *this;
  }
};

double mean_error(const at::Tensor& value, const at::Tensor& exact) {
  return (value.to(at::kDouble) - exact).square().mean().sqrt().item<double>() /
         exact.square().mean().sqrt().item<double>();
}

/// As exact as LibTorch's own float32, but for a small factor.
void expect_close(const at::Tensor& value, const at::Tensor& theirs, const at::Tensor& exact, const Case& c) {
  ASSERT_EQ(value.sizes(), exact.sizes()) << c;
  EXPECT_LT(mean_error(value, exact), 4 * mean_error(theirs, exact) + 3e-6) << c;
}

class Winograd : public ::testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(1);
    if (instruction_set(8, 8) == nullptr) GTEST_SKIP() << "needs an x86 processor with AVX2";
  }
};

TEST_F(Winograd, Convolution_EqualsLibTorchs) {
  for (const Case& c : cases) {
    const Layer layer(c);
    const at::Tensor exact = layer.in_double().by_libtorch();
    expect_close(convolution(layer.x, layer.weight, layer.bias), layer.by_libtorch(), exact, c);
    expect_close(
        convolution(layer.x.contiguous(), layer.weight.contiguous(at::MemoryFormat::ChannelsLast), {}),
        at::conv2d(layer.x, layer.weight, {}, 1, 1), exact - layer.in_double().bias.view({-1, 1, 1}), c);
  }
}

TEST_F(Winograd, Gradients_EqualLibTorchs) {
  for (const Case& c : cases) {
    Layer ours(c);
    Layer exact = ours.in_double();
    Layer theirs = ours;
    for (at::Tensor* t : {&theirs.x, &theirs.weight, &theirs.bias}) *t = t->clone();
    const at::Tensor g = at::randn({c.images, c.out, c.height, c.width});
    convolution(ours.with_gradients().x, ours.weight, ours.bias).backward(g);
    theirs.with_gradients().by_libtorch().backward(g);
    exact.with_gradients().by_libtorch().backward(g.to(at::kDouble));
    expect_close(ours.x.grad(), theirs.x.grad(), exact.x.grad(), c);
    expect_close(ours.weight.grad(), theirs.weight.grad(), exact.weight.grad(), c);
    expect_close(ours.bias.grad(), theirs.bias.grad(), exact.bias.grad(), c);
  }
}

TEST_F(Winograd, EmptyBatch_HasZeroGradient) {
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{0, 16, 8, 8}, {2, 16, 0, 8}, {2, 16, 8, 0}, {0, 16, 0, 0}}) {
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      const at::Tensor x = at::randn(shape).requires_grad_(true);
      const at::Tensor weight = at::randn({24, 16, 3, 3}).contiguous(format).requires_grad_(true);
      const at::Tensor bias = at::randn({24}).requires_grad_(true);
      ASSERT_TRUE(takes(x, weight, bias));
      const at::Tensor y = convolution(x, weight, bias);
      EXPECT_EQ(y.sizes(), (std::vector<std::int64_t>{shape[0], 24, shape[2], shape[3]}));
      y.sum().backward();
      EXPECT_EQ(x.grad().sizes(), x.sizes());
      EXPECT_EQ(weight.grad().abs().max().item<float>(), 0.0F);
      EXPECT_EQ(bias.grad().abs().max().item<float>(), 0.0F);
    }
  }
  EXPECT_FALSE(takes(at::randn({2, 0, 8, 8}), at::randn({16, 0, 3, 3}))) << "no channels";
  EXPECT_FALSE(takes(at::randn({2, 16, 8, 8}), at::randn({0, 16, 3, 3})));
  EXPECT_FALSE(takes(at::randn({2, 0, 8, 8}), at::randn({0, 0, 3, 3})));
}

TEST_F(Winograd, GradientNotRequired_IsNotComputed) {
  Layer frozen({2, 16, 16, 8, 8});
  frozen.x.requires_grad_(true);
  convolution(frozen.x, frozen.weight, frozen.bias).sum().backward();
  EXPECT_TRUE(frozen.x.grad().defined());
  EXPECT_FALSE(frozen.weight.grad().defined());
  EXPECT_FALSE(convolution(frozen.x.detach(), frozen.weight, frozen.bias).requires_grad());
}

TEST_F(Winograd, SomeGradientsRequired_AreComputed) {
  const Case c{2, 16, 24, 8, 8};
  const auto gradients = [&](bool of_x, bool of_weight, bool of_bias, bool with_bias) {
    Layer layer(c);
    layer.x.requires_grad_(of_x);
    layer.weight.requires_grad_(of_weight);
    layer.bias.requires_grad_(of_bias);
    Layer exact = layer.in_double();
    exact.x.requires_grad_(of_x);
    exact.weight.requires_grad_(of_weight);
    exact.bias.requires_grad_(of_bias);
    const at::Tensor g = at::randn({c.images, c.out, c.height, c.width});
    convolution(layer.x, layer.weight, with_bias ? layer.bias : at::Tensor()).backward(g);
    exact.by_libtorch().backward(g.to(at::kDouble));
    for (const auto& [ours, theirs] : {std::pair{layer.x, exact.x}, std::pair{layer.weight, exact.weight},
                                       std::pair{layer.bias, exact.bias}}) {
      ASSERT_EQ(ours.grad().defined(), ours.requires_grad());
      if (ours.requires_grad()) {
        EXPECT_LT(mean_error(ours.grad(), theirs.grad()), 1e-5);
      }
    }
  };
  gradients(true, false, false, true);
  gradients(false, true, false, true);
  gradients(false, false, true, true);
  gradients(false, true, false, false);
  gradients(true, true, false, false);
}

TEST_F(Winograd, UnsupportedTensors_Throw) {
  const Layer layer({2, 16, 16, 8, 8});
  EXPECT_THROW(convolution(layer.x, layer.weight, at::randn({1})), Error);
  EXPECT_THROW(convolution(layer.x, layer.weight, at::randn({16}, at::kDouble)), Error);
  EXPECT_THROW(convolution(layer.x, layer.weight.narrow(1, 0, 8), {}), Error);
  EXPECT_THROW(convolution(layer.x, at::randn({16, 16, 1, 1}), {}), Error);
  EXPECT_THROW(convolution(at::randn({2, 12, 8, 8}), at::randn({16, 12, 3, 3}), {}), Error);
  EXPECT_EQ(convolution(layer.x.narrow(0, 0, 0), layer.weight, {}).numel(), 0);
  EXPECT_THROW(nn::convolve(at::randn({64, 16, 8, 8}), layer.weight, at::randn({1})), c10::Error)
      << "LibTorch says so";
}

TEST_F(Winograd, DoubleBackward_EqualsLibTorchs) {
  Layer ours({2, 16, 16, 8, 8}), theirs = ours;
  for (at::Tensor* t : {&theirs.x, &theirs.weight, &theirs.bias}) *t = t->clone();
  const auto twice = [](const at::Tensor& y, Layer& layer) {
    const auto first = torch::autograd::grad({y.square().sum()}, {layer.x, layer.weight}, {}, true, true);
    (first[0].square().sum() + first[1].square().sum()).backward();
  };
  ours.with_gradients();
  twice(convolution(ours.x, ours.weight, ours.bias), ours);
  theirs.with_gradients();
  twice(theirs.by_libtorch(), theirs);
  EXPECT_LT(mean_error(ours.x.grad(), theirs.x.grad().to(at::kDouble)), 1e-5);
  EXPECT_LT(mean_error(ours.weight.grad(), theirs.weight.grad().to(at::kDouble)), 1e-5);
}

TEST_F(Winograd, AnyNumberOfThreads_IsBitwiseEqual) {
  const int before = at::get_num_threads();
  for (const Case& c : cases) {
    std::optional<at::Tensor> y, of_x, of_weight;
    Layer layer(c);
    const at::Tensor g = at::randn({c.images, c.out, c.height, c.width});
    layer.with_gradients();
    for (const int threads : {1, 2, 3, 7}) {
      at::set_num_threads(threads);
      for (at::Tensor* t : {&layer.x, &layer.weight, &layer.bias}) t->mutable_grad().reset();
      const at::Tensor result = convolution(layer.x, layer.weight, layer.bias);
      result.backward(g);
      if (!y) {
        y = result.detach();
        of_x = layer.x.grad();
        of_weight = layer.weight.grad();
      }
      EXPECT_TRUE(y->equal(result.detach())) << c << ", " << threads << " threads";
      EXPECT_TRUE(of_x->equal(layer.x.grad())) << c << ", " << threads << " threads";
      EXPECT_TRUE(of_weight->equal(layer.weight.grad())) << c << ", " << threads << " threads";
    }
  }
  at::set_num_threads(before);
}

#if defined(__x86_64__)
void expect_computes(const InstructionSet& wide) {
  for (const Case& c : cases) {
    if (c.in % 16 != 0 || c.out % 16 != 0) continue;
    const Layer layer(c);
    const Layer exact = layer.in_double().with_gradients();
    const Shape shape{{c.images, c.height, c.width}, c.in, c.out};
    const KernelStrides stride{layer.weight.stride(0), layer.weight.stride(1), layer.weight.stride(2),
                               layer.weight.stride(3)};
    at::Tensor y = at::zeros({c.images, c.out, c.height, c.width}).contiguous(at::MemoryFormat::ChannelsLast);
    convolve(wide, shape, layer.x.const_data_ptr<float>(), layer.weight.const_data_ptr<float>(), stride,
             layer.bias.const_data_ptr<float>(), y.mutable_data_ptr<float>());
    expect_close(y, layer.by_libtorch(), exact.by_libtorch().detach(), c);

    const at::Tensor g = at::randn(y.sizes()).contiguous(at::MemoryFormat::ChannelsLast);
    at::Tensor of_weight = at::zeros_like(layer.weight);
    kernel_gradient(wide, shape, layer.x.const_data_ptr<float>(), g.const_data_ptr<float>(), stride,
                    of_weight.mutable_data_ptr<float>());
    exact.by_libtorch().backward(g.to(at::kDouble));
    EXPECT_LT(mean_error(of_weight, exact.weight.grad()), 1e-5) << c;
  }
}

TEST_F(Winograd, WiderVectors_AreEqual) {
  expect_computes(InstructionSet::of<detail::SixteenOnAvx2>());
}

/// The narrower one, too, which is not chosen where there is a wider one.
TEST_F(Winograd, EveryInstructionSet_IsEqual) {
  expect_computes(InstructionSet::of<detail::Avx2>());
  if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "no AVX-512 on this processor";
  EXPECT_EQ(instruction_set(16, 16)->lanes, 16);
  expect_computes(InstructionSet::of<detail::Avx512>());
}
#endif

TEST_F(Winograd, Suits_LargeConvolutions_IsTrue) {
  const auto suit = [](const Case& c) { return suits(Layer(c).x, Layer(c).weight); };
  EXPECT_TRUE(suit({64, 64, 64, 32, 32}));
  EXPECT_TRUE(suit({64, 512, 512, 4, 4}));
  EXPECT_TRUE(suit({1, 64, 64, 32, 32}));
  EXPECT_FALSE(suit({64, 512, 512, 2, 2})) << "most of a tile would be cut off";
  EXPECT_FALSE(suit({1, 512, 512, 4, 4})) << "kernels are prepared for one tile";
  EXPECT_FALSE(suit({64, 3, 64, 32, 32}));
  EXPECT_FALSE(suit({64, 20, 64, 32, 32}));
  EXPECT_FALSE(suit({64, 64, 10, 32, 32}));

  const Layer layer({64, 16, 16, 8, 8});
  EXPECT_TRUE(suits(layer.x, layer.weight));
  EXPECT_FALSE(suits(layer.x.to(at::kDouble), layer.weight.to(at::kDouble)));
  EXPECT_FALSE(suits(layer.x.to(at::kBFloat16), layer.weight.to(at::kBFloat16)));
  EXPECT_FALSE(suits(layer.x, layer.weight.narrow(1, 0, 8))) << "they do not fit; LibTorch is to say so";
  EXPECT_FALSE(suits(layer.x[0], layer.weight)) << "one image without a batch";
  EXPECT_FALSE(suits(layer.x, at::randn({16, 16, 1, 1})));
  EXPECT_FALSE(suits(layer.x, at::randn({16, 16, 3, 1})));
}

torch::nn::Conv2d layer_of(torch::nn::Conv2dOptions options) {
  return torch::nn::Conv2d(options);
}

class Convolve : public Winograd {
 protected:
  void TearDown() override { nn::allow_winograd(true); }
  const at::Tensor x = at::randn({64, 16, 8, 8});

  /// Whether `convolve` does something else than LibTorch, as the last bits tell.
  bool is_ours(torch::nn::Conv2d layer) const {
    const at::Tensor y = nn::convolve(layer, x), theirs = layer->forward(x);
    EXPECT_LT((y - theirs).abs().max().item<double>(), 1e-5);
    return !y.equal(theirs);
  }
};

TEST_F(Convolve, Suitable_UsesWinograd) {
  const torch::nn::Conv2dOptions plain = torch::nn::Conv2dOptions(16, 16, 3).padding(1);
  EXPECT_TRUE(is_ours(layer_of(plain)));
  EXPECT_TRUE(is_ours(layer_of(torch::nn::Conv2dOptions(plain).bias(false))));
  EXPECT_FALSE(is_ours(layer_of(torch::nn::Conv2dOptions(plain).stride(2))));
  EXPECT_FALSE(is_ours(layer_of(torch::nn::Conv2dOptions(plain).padding(0))));
  EXPECT_FALSE(is_ours(layer_of(torch::nn::Conv2dOptions(plain).padding(2).dilation(2))));
  EXPECT_FALSE(is_ours(layer_of(torch::nn::Conv2dOptions(plain).groups(2))));
  EXPECT_FALSE(is_ours(layer_of(torch::nn::Conv2dOptions(plain).padding_mode(torch::kReflect))));
  EXPECT_FALSE(is_ours(layer_of(torch::nn::Conv2dOptions(16, 16, 1))));
}

TEST_F(Convolve, StridedFewChannels_EqualsLibTorchs) {
  torch::nn::Conv2d layer = layer_of(torch::nn::Conv2dOptions(4, 8, 1).stride(2));
  const at::Tensor few = at::randn({3, 4, 9, 8});
  Layer exact({1, 1, 1, 1, 1});
  exact.x = few.to(at::kDouble).requires_grad_(true);
  exact.weight = layer->weight.detach().to(at::kDouble).requires_grad_(true);
  at::conv2d(exact.x, exact.weight, layer->bias.detach().to(at::kDouble), 2).square().sum().backward();
  const at::Tensor own = few.clone().requires_grad_(true);
  nn::convolve(layer, own).square().sum().backward();
  EXPECT_LT(mean_error(own.grad(), exact.x.grad()), 1e-5);
  EXPECT_LT(mean_error(layer->weight.grad(), exact.weight.grad()), 1e-5);
}

TEST_F(Convolve, WinogradNotAllowed_UsesLibTorch) {
  nn::allow_winograd(false);
  EXPECT_FALSE(is_ours(layer_of(torch::nn::Conv2dOptions(16, 16, 3).padding(1))));
}

TEST_F(Convolve, Autocast_ComputesInBfloat16) {
  torch::nn::Conv2d layer = layer_of(torch::nn::Conv2dOptions(16, 16, 3).padding(1));
  const nn::Autocast lower(at::kCPU, true);
  EXPECT_EQ(nn::convolve(layer, x).scalar_type(), at::kBFloat16);
}

TEST_F(Convolve, Tracing_UsesLibTorch) {
  torch::nn::Conv2d layer = layer_of(torch::nn::Conv2dOptions(16, 16, 3).padding(1));
  for (auto& parameter : layer->parameters()) parameter.set_requires_grad(false);
  const auto [state, result] = torch::jit::tracer::trace(
      {x},
      [&](torch::jit::Stack stack) -> torch::jit::Stack {
        return {nn::convolve(layer, stack[0].toTensor())};
      },
      [](const at::Tensor&) { return ""; });
  int convolutions = 0;
  for (const auto* node : state->graph->nodes()) {
    convolutions += node->kind() == c10::Symbol::fromQualString("aten::_convolution") ||
                    node->kind() == c10::Symbol::fromQualString("aten::conv2d");
  }
  EXPECT_EQ(convolutions, 1);
}

TEST(Parallel, Parts_AreVisitedOnce) {
  const int before = at::get_num_threads();
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    std::vector<std::atomic<int>> seen(103);
    parallel(103, 10, [&](std::int64_t begin, std::int64_t end) {
      EXPECT_EQ(begin % 10, 0);
      EXPECT_EQ(end, std::min<std::int64_t>(begin + 10, 103));
      for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
    });
    for (const auto& times : seen) EXPECT_EQ(times, 1);
    parallel(0, 10, [](std::int64_t, std::int64_t) { ADD_FAILURE(); });
  }
  at::set_num_threads(before);
}

TEST(Parallel, ManyParts_RunOnSeveralThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> here = 0;
  std::atomic<bool> met = false;
  parallel(2, 1, [&](std::int64_t, std::int64_t) {
    ++here;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (here < 2 && !met && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    if (here >= 2) met = true;
    --here;
  });
  EXPECT_TRUE(met);
  at::set_num_threads(before);
}

TEST(Parallel, Exception_IsRethrown) {
  const int before = at::get_num_threads();
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    const auto fail = [] {
      parallel(50, 1, [](std::int64_t begin, std::int64_t) {
        if (begin >= 20) throw std::runtime_error("no memory");
      });
    };
    EXPECT_THROW(fail(), std::runtime_error);
  }
  at::set_num_threads(before);
}

}  // namespace
}  // namespace refine::winograd
