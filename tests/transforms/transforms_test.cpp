#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <string>

#include <refine/nn/torch_random.hpp>
#include <refine/transforms/transforms.hpp>

#include "tests/fixtures/pytorch.hpp"
#include "tests/support/error_of.hpp"
#include "tests/transforms/count_parameters.hpp"

namespace refine::transforms {
namespace {

using refine::testing::distance;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::load_from_pytorch;
using refine::testing::pytorch;

using CifarUNet = UNet<tasks::cifar10>;

TEST(UNet, Forward_GivesPyTorchsImages) {
  const CifarUNet sigmoid{.width = 4}, clamp{.width = 4, .activation = OutputActivation::clamp};
  load_from_pytorch(*sigmoid.module, "unet");
  load_from_pytorch(*clamp.module, "unet");
  for (const std::string images : {"images", "odd_images"}) {
    const at::Tensor raw = pytorch().at("unet:" + images);
    EXPECT_LT(raw.min().item<float>(), 0) << "the fixture must have values that the clamp cuts off";
    EXPECT_LT(distance(sigmoid.forward(pytorch().at(images)), 1 / (1 + (-raw).exp())), 1e-5) << images;
    EXPECT_LT(distance(clamp.forward(pytorch().at(images)), raw.clamp(0, 1)), 1e-5) << images;
  }
}

TEST(UNet, Forward_KeepsShapeAndRange) {
  for (const int levels : {1, 3, 4, 5}) {
    for (const OutputActivation activation : {OutputActivation::sigmoid, OutputActivation::clamp}) {
      const UNet<> net{
          .image = {3, dynamic, dynamic}, .levels = levels, .width = 4, .activation = activation};
      for (const auto& [height, width] : {std::pair{32, 32}, std::pair{37, 45}, std::pair{63, 33}}) {
        const at::Tensor images = 40 * at::rand({2, 3, height, width}) - 20;
        const at::Tensor out = net.forward(images);
        EXPECT_EQ(out.sizes(), images.sizes()) << levels << " levels";
        EXPECT_GE(out.min().item<float>(), 0);
        EXPECT_LE(out.max().item<float>(), 1);
      }
    }
  }
  const UNet<> grey{.image = {1, 16, 16}, .levels = 2, .width = 2};
  EXPECT_EQ(grey.forward(at::rand({1, 1, 16, 16})).size(1), 1);
}

TEST(UNet, Parameters_AreAsManyAsComputedByHand) {
  // One level, width 2, 3 channels. Down: (3·2·9+2) + 4 + (2·2·9+2) + 4 = 102.
  // Bottom: 2 · (38 + 4) = 84. Up, from 4 by 2 to 2: (4·2·9+2) + 4 + 38 + 4 = 120. Last: 2·3 + 3 = 9.
  const UNet<> net{.image = {3, 8, 8}, .levels = 1, .width = 2};
  EXPECT_EQ(count_parameters(*net.module), 102 + 84 + 120 + 9);
  // The published widths, f 2f 4f 4f | 2f f f, for three levels and f = 2: each double convolution
  // of a → m → b has 9am + m + 2m + 9mb + b + 2b.
  const auto double_convolution = [](int a, int m, int b) { return 9 * a * m + 3 * m + 9 * m * b + 3 * b; };
  const UNet<> three{.image = {3, 8, 8}, .levels = 3, .width = 2};
  EXPECT_EQ(count_parameters(*three.module), double_convolution(3, 2, 2) + double_convolution(2, 4, 4) +
                                                 double_convolution(4, 8, 8) + double_convolution(8, 8, 8) +
                                                 double_convolution(16, 8, 4) + double_convolution(8, 4, 2) +
                                                 double_convolution(4, 2, 2) + 9);
}

TEST(UNet, Seed_DeterminesTheWeights) {
  at::Generator(at::detail::getDefaultCPUGenerator()).set_current_seed(5);
  const at::Tensor before = at::detail::getDefaultCPUGenerator().get_state();
  const CifarUNet one{.width = 2}, again{.width = 2}, other{.width = 2, .seed = 7};
  EXPECT_TRUE(at::detail::getDefaultCPUGenerator().get_state().equal(before));
  const auto a = one.module->parameters(), b = again.module->parameters(), c = other.module->parameters();
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i]));
  EXPECT_FALSE(a[0].equal(c[0]));
}

TEST(UNet, Backward_ReachesInputAndWeights) {
  const CifarUNet net{.width = 2};
  net.module->eval();
  at::Tensor images = at::rand({2, 3, 32, 32}).requires_grad_();
  net.forward(images).square().sum().backward();
  EXPECT_GT(images.grad().abs().max().item<float>(), 0);
  for (const auto& item : net.module->named_parameters())
    EXPECT_TRUE(item.value().grad().defined()) << item.key();
}

TEST(UNet, BiasBeforeBatchNorm_OnlyChangesTheRunningMean) {
  // BatchNorm removes a bias again, so outputs equal those of PyTorch's modules, which tests of
  // parity compare. Only the running mean shows the bias.
  const CifarUNet net{.width = 2};
  net.module->train();
  const auto parameter = [&](const std::string& name) { return net.module->named_parameters()[name]; };
  const auto mean = [&] { return net.module->named_buffers()["inc.double_conv.1.running_mean"].clone(); };
  const at::Tensor images = at::rand({2, 3, 32, 32});
  at::Tensor bias = parameter("inc.double_conv.0.bias");
  {
    const c10::NoGradGuard no_grad;
    const at::Tensor before = mean();
    bias.zero_();
    const at::Tensor without = net.forward(images), change = mean() - 0.9 * before;
    bias.fill_(3);
    const at::Tensor start = mean(), with = net.forward(images);
    EXPECT_TRUE(with.equal(without));
    EXPECT_LT((mean() - 0.9 * start - (change + 0.1 * 3)).abs().max().item<double>(), 1e-5);
  }
  net.forward(images).square().sum().backward();
  EXPECT_FALSE(bias.grad().defined());
  EXPECT_TRUE(parameter("inc.double_conv.0.weight").grad().defined());
  EXPECT_TRUE(parameter("outc.conv.bias").grad().defined());
}

TEST(UNet, Make_UnsupportedShapeOrExtent_Throws) {
  expect_words(error_of([] {
                 (void)UNet<>{.image = {3, 32, 16}, .levels = 5};
               }),
               {"UNet", "too small", "5 levels", "got 3x32x16", "at least 32x32", "halves"});
  expect_words(error_of([] {
                 (void)UNet<>{.image = {3, 15, dynamic}};
               }),
               {"UNet", "too small", "4 levels", "got 3x15x?", "at least 16x16", "halves"});
  expect_words(error_of([] { (void)UNet<>{}; }),
               {"UNet", "channels must be known", ".image = ImageShape{3, 32, 32}"});
  for (const auto& [levels, width] : {std::pair{0, 64}, std::pair{9, 64}, std::pair{4, 3}, std::pair{4, 0}}) {
    expect_words(
        error_of([&] { (void)CifarUNet{.levels = levels, .width = width}; }),
        {"levels must be 1 to 8", "levels " + std::to_string(levels), "width " + std::to_string(width)});
  }
}

TEST(UNet, StaticImage_IsThatOfTheType) {
  static_assert(Transform<CifarUNet> && Transform<UNet<>> && Transform<None<>>);
  static_assert(static_image_of<CifarUNet>() == ImageShape{3, 32, 32});
  static_assert(static_image_of<UNet<>>() == ImageShape{});
  static_assert(!Transform<int>);
}

TEST(EncoderDecoder, Parameters_AreAsManyAsComputedByHand) {
  // Two levels, width 4, 3 channels: a unit of a → b with k pixels in its kernel has k·a·b + 2b.
  const auto unit = [](int a, int b, int k) { return k * a * b + 2 * b; };
  const EncoderDecoder<> net{.image = {3, 8, 8}, .levels = 2, .width = 4};
  EXPECT_EQ(count_parameters(*net.module), unit(12, 4, 9) + unit(4, 4, 9) + unit(4, 8, 9) + unit(8, 8, 9) +
                                               unit(8, 4, 1) + unit(4, 2, 9) + 2 * 12 + 12);
}

TEST(EncoderDecoder, Forward_KeepsShapeAndRange) {
  for (const int levels : {2, 3, 4}) {
    for (const OutputActivation activation : {OutputActivation::sigmoid, OutputActivation::clamp}) {
      const EncoderDecoder<> net{
          .image = {3, dynamic, dynamic}, .levels = levels, .width = 4, .activation = activation};
      for (const auto& [height, width] : {std::pair{32, 32}, std::pair{37, 45}, std::pair{63, 33}}) {
        const at::Tensor images = 40 * at::rand({2, 3, height, width}) - 20;
        const at::Tensor out = net.forward(images);
        EXPECT_EQ(out.sizes(), images.sizes()) << levels << " levels";
        EXPECT_GE(out.min().item<float>(), 0);
        EXPECT_LE(out.max().item<float>(), 1);
      }
    }
  }
}

TEST(EncoderDecoder, Decoder_SeesCoarseFeaturesOnly) {
  const EncoderDecoder<tasks::cifar10> net{.width = 8};
  net.module->eval();
  const at::Tensor features =
      net.module->named_modules()["bottleneck"]->as<detail::ConvolutionUnit>()->forward(
          at::rand({1, 32, 4, 4}));
  EXPECT_EQ(features.sizes(), (std::vector<std::int64_t>{1, 8, 4, 4}));
  std::int64_t inputs = 0;
  for (const auto& item : net.module->named_parameters()) {
    // A skip connection would make a decoder's convolution wider than the bottleneck.
    if (item.key().starts_with("decoder") && item.value().dim() == 4) {
      EXPECT_EQ(item.value().size(1), 8) << item.key();
      ++inputs;
    }
  }
  EXPECT_EQ(inputs, 2);
}

TEST(EncoderDecoder, Backward_ReachesInputAndWeights) {
  const EncoderDecoder<tasks::cifar10> net{.width = 4};
  at::Tensor images = at::rand({2, 3, 32, 32}).requires_grad_();
  net.forward(images).square().sum().backward();
  EXPECT_GT(images.grad().abs().max().item<float>(), 0);
  for (const auto& item : net.module->named_parameters())
    EXPECT_TRUE(item.value().grad().defined()) << item.key();
}

TEST(EncoderDecoder, FreezeAndDeepCopy_GiveTheSameImages) {
  const EncoderDecoder<tasks::cifar10> net{.width = 8};
  net.module->train();
  nn::with_torch_seed(3, [&] { (void)net.forward(at::rand({8, 3, 32, 32})); });
  net.module->eval();
  const at::Tensor images = nn::with_torch_seed(1, [] { return at::rand({4, 3, 32, 32}); });
  EXPECT_TRUE(nn::deep_copy(net).forward(images).equal(net.forward(images)));
  EXPECT_LT(distance(freeze(net).forward(images), net.forward(images)), 1e-5);
  EXPECT_EQ(net.describe(), "EncoderDecoder, levels 3, width 8, sigmoid");
}

TEST(EncoderDecoder, Make_UnsupportedShapeOrExtent_Throws) {
  expect_words(error_of([] {
                 (void)EncoderDecoder<>{.image = {3, 32, 7}};
               }),
               {"EncoderDecoder", "too small", "3 levels", "got 3x32x7", "at least 8x8", "halves"});
  expect_words(error_of([] { (void)EncoderDecoder<>{}; }),
               {"EncoderDecoder", "channels must be known", ".image = ImageShape{3, 32, 32}"});
  for (const auto& [levels, width] : {std::pair{1, 64}, std::pair{9, 64}, std::pair{3, 3}, std::pair{3, 0}}) {
    expect_words(
        error_of([&] { (void)EncoderDecoder<tasks::cifar10>{.levels = levels, .width = width}; }),
        {"levels must be 2 to 8", "levels " + std::to_string(levels), "width " + std::to_string(width)});
  }
}

/// Returns a U-Net whose BatchNorms have running statistics.
CifarUNet briefly_trained() {
  const CifarUNet net{.width = 4};
  net.module->train();
  nn::with_torch_seed(3, [&] {
    for (int i = 0; i < 3; ++i) (void)net.forward(at::rand({8, 3, 32, 32}));
  });
  net.module->eval();
  return net;
}

std::int64_t batch_norms(const torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const auto& inner : module.modules()) {
    count += dynamic_cast<const torch::nn::BatchNorm2dImpl*>(inner.get()) != nullptr;
  }
  return count;
}

TEST(Freeze, Copy_HasEveryBatchNormFolded) {
  const CifarUNet net = briefly_trained();
  const auto frozen = freeze(net);
  static_assert(FrozenTransform<Frozen<CifarUNet>> && !FrozenTransform<CifarUNet>);
  static_assert(static_image_of<Frozen<CifarUNet>>() == ImageShape{3, 32, 32});
  const at::Tensor images = nn::with_torch_seed(1, [] { return at::rand({4, 3, 32, 32}); });
  const at::Tensor before = net.forward(images);
  EXPECT_LT(distance(frozen.forward(images), before), 1e-5);
  EXPECT_EQ(batch_norms(*net.module), 18);
  EXPECT_EQ(batch_norms(*frozen.module), 0);
  EXPECT_EQ(frozen.describe(), net.describe());
  for (const auto& parameter : frozen.module->parameters()) EXPECT_FALSE(parameter.requires_grad());
  {
    c10::NoGradGuard no_grad;
    for (auto& parameter : net.module->parameters()) parameter.add_(1);
  }
  EXPECT_LT(distance(frozen.forward(images), before), 1e-5) << "the copy must not follow the original";
}

TEST(Freeze, AnyTransform_IsFrozenOnce) {
  const CifarUNet net = briefly_trained();
  const AnyTransform any{net};
  ASSERT_TRUE(can_freeze(net) && can_freeze(any));
  const auto frozen = freeze(any), again = freeze(frozen);
  EXPECT_EQ(batch_norms(*frozen.module), 0);
  EXPECT_EQ(frozen.module, again.module);
  const at::Tensor images = nn::with_torch_seed(1, [] { return at::rand({4, 3, 32, 32}); });
  EXPECT_LT(distance(frozen.forward(images), net.forward(images)), 1e-5);
  expect_words(error_of([&] { any.with_module(std::make_shared<torch::nn::LinearImpl>(2, 2)); }),
               {"AnyTransform", "same kind"});
}

/// `Cloneable` copies only those children that can be cloned.
struct Nested : torch::nn::Cloneable<Nested> {
  std::shared_ptr<detail::UNetModule> inner;
  Nested() { reset(); }
  void reset() override {
    inner =
        register_module("inner", std::make_shared<detail::UNetModule>(3, 2, 4, OutputActivation::sigmoid));
  }
};
struct Wrapped {
  ImageShape image = {3, 32, 32};
  std::shared_ptr<Nested> module = std::make_shared<Nested>();
  at::Tensor forward(const at::Tensor& images) const { return module->inner->forward(images); }
};

TEST(Freeze, NestedModule_IsCopiedWhole) {
  const Wrapped net;
  net.module->eval();
  const at::Tensor images = nn::with_torch_seed(1, [] { return at::rand({2, 3, 32, 32}); });
  EXPECT_LT(distance(freeze(net).forward(images), net.forward(images)), 1e-5);
  net.module->to(at::kDouble);
  EXPECT_LT(distance(freeze(net).forward(images.to(at::kDouble)), net.forward(images.to(at::kDouble))), 1e-5);
}

TEST(Freeze, CanFreeze_FalseForFrozenAndUnclonable) {
  EXPECT_FALSE(can_freeze(freeze(briefly_trained())));
  EXPECT_FALSE(can_freeze(AnyTransform{freeze(briefly_trained())}));
  EXPECT_FALSE(can_freeze(None<>{}));  // a bare torch::nn::Module
  EXPECT_FALSE(can_freeze(AnyTransform{None<>{}}));
}

TEST(None, Forward_ReturnsTheImages) {
  const at::Tensor images = at::rand({2, 3, 4, 5});
  EXPECT_TRUE(None<>{}.forward(images).equal(images));
  EXPECT_EQ(None<>{}.module->parameters().size(), 0u);
}

// An optional member that would be ignored is an error.
struct DescribeIsNotConst : None<> {
  std::string describe() { return ""; }
};
struct DescribeTakesNumber : None<> {
  std::string describe(int) const { return ""; }
};
struct WithModuleIsNotConst : None<> {
  None<> with_module(const std::shared_ptr<torch::nn::Module>&) { return {}; }
};
struct WithModuleTakesNothing : None<> {
  None<> with_module() const { return {}; }
};
struct CudaGraphSafeIsAFunction : None<> {
  bool cuda_graph_safe() const { return true; }
};
struct OutputShapeIsAFunction : None<> {
  ImageShape output_shape() const { return {}; }
};
struct DrawIsNotConst : None<> {
  Drawn draw(const at::Tensor& images) { return {images}; }
};
struct GenericDrawIsNotConst : None<> {
  Drawn draw(const auto& images) { return {images}; }
};
struct CheckIsNotConst : None<> {
  void check() {}
};
struct TrainedModuleIsNotConst : None<> {
  std::shared_ptr<torch::nn::Module> trained_module() { return module; }
};
struct EncoderModuleIsNotConst : None<> {
  std::shared_ptr<torch::nn::Module> encoder_module() { return module; }
};
static_assert(!Transform<DescribeIsNotConst> && !Transform<DescribeTakesNumber>);
static_assert(!Transform<WithModuleIsNotConst> && !Transform<WithModuleTakesNothing>);
static_assert(!Transform<CudaGraphSafeIsAFunction> && !Transform<OutputShapeIsAFunction>);
static_assert(!Transform<DrawIsNotConst> && !Transform<GenericDrawIsNotConst> && !Transform<CheckIsNotConst>);
static_assert(!Transform<TrainedModuleIsNotConst> && !Transform<EncoderModuleIsNotConst>);

struct AllMembers : None<> {
  static constexpr bool cuda_graph_safe = false;
  static constexpr ImageShape output_shape = {3, 8, 8};
  static std::string describe() { return ""; }
  AllMembers with_module(auto) const { return *this; }
  Drawn draw(const at::Tensor& images, bool is_last = false) const { return {is_last ? images : images}; }
  void check() const {}
  void check() {}
  std::shared_ptr<torch::nn::Module> trained_module() const { return module; }
};
class PrivateHelpers : public None<> {
  void check(int) {}
  std::string describe(int) { return ""; }
};
static_assert(Transform<AllMembers> && Transform<PrivateHelpers> && Transform<Frozen<Wrapped>>);
static_assert(Transform<Frozen<AnyTransform>> && Transform<AnyTransform> && Transform<Resized<UNet<>>>);

// ---- The snippet of refine/transforms/README.md ----

/// One 3×3 convolution, added to the image.
struct Residual {
  ImageShape image = {3, dynamic, dynamic};
  std::shared_ptr<torch::nn::Conv2dImpl> module = nn::with_torch_seed(default_seed, [this] {
    return std::make_shared<torch::nn::Conv2dImpl>(
        torch::nn::Conv2dOptions(image.channels, image.channels, 3).padding(1));
  });

  at::Tensor forward(const at::Tensor& images) const {
    return (images + module->forward(images)).clamp(0, 1);
  }
};
static_assert(Transform<Residual>);

TEST(Readme, CustomTransform_RewritesImages) {
  const at::Tensor images = at::rand({2, 3, 8, 8});
  const at::Tensor out = Residual{}.forward(images);
  EXPECT_EQ(out.sizes(), images.sizes());
  EXPECT_LE(out.max().item<float>(), 1);
  EXPECT_GE(out.min().item<float>(), 0);
}

}  // namespace
}  // namespace refine::transforms
