// Transforms that see and draw images of other sizes than the task's.

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/transforms/transforms.hpp>

#include "tests/support/error_of.hpp"
#include "tests/transforms/count_parameters.hpp"

namespace refine::transforms {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

using SmallUNet = Resized<UNet<>>;
static_assert(Transform<SmallUNet> && Transform<Resized<AnyTransform>> && !EncodingTransform<SmallUNet>);
static_assert(static_output_shape_of<UNet<tasks::cifar10>>() == ImageShape{3, 32, 32});
static_assert(static_output_shape_of<SmallUNet>() == ImageShape{});

SmallUNet small_unet() {
  return {.image = {3, 40, 48},
          .inner = {.image = {3, 16, 16}, .levels = 2, .width = 4},
          .output_shape = {3, 20, 24}};
}

at::Tensor random_images(std::int64_t n, std::int64_t height, std::int64_t width) {
  return nn::with_torch_seed(1, [&] { return at::rand({n, 3, height, width}); });
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

TEST(Resized, Forward_ShrinksWithAFilterAndEnlargesBilinearly) {
  // Rows of four pixels a b c d, by hand. Shrunk to two, each pixel has the weights 3/4 and 1/4 of a
  // triangle of two pixels' radius, cut at the border. Enlarged to four: 3/4 and 1/4 of two neighbours.
  const Resized<None<>> identity{
      .image = {1, 4, 4}, .inner = {.image = {1, 2, 2}}, .output_shape = {1, 4, 4}};
  const at::Tensor row = at::tensor({0.7f, 0.1f, 0.9f, 0.3f});
  const double left = (3 * 0.7 + 3 * 0.1 + 0.9) / 7, right = (0.1 + 3 * 0.9 + 3 * 0.3) / 7;
  const at::Tensor expected =
      at::tensor({left, 0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right, right});
  const at::Tensor out = identity.forward(row.expand({1, 1, 4, 4}));
  ASSERT_EQ(out.sizes(), (std::vector<std::int64_t>{1, 1, 4, 4}));
  for (int y = 0; y < 4; ++y)
    EXPECT_LT(difference(out[0][0][y].to(at::kDouble), expected.to(at::kDouble)), 1e-6);
}

TEST(Resized, Forward_HasTheOutputShape) {
  const SmallUNet net = small_unet();
  const at::Tensor images = random_images(2, 40, 48);
  const at::Tensor out = net.forward(images);
  EXPECT_EQ(out.sizes(), (std::vector<std::int64_t>{2, 3, 20, 24}));
  EXPECT_GE(out.min().item<float>(), 0);
  EXPECT_LE(out.max().item<float>(), 1);
  const AnyTransform any(net);
  EXPECT_EQ(any.output_shape, (ImageShape{3, 20, 24}));
  EXPECT_TRUE(any.forward(images).equal(out));
  expect_words(net.describe(), {"sees 3x16x16", "draws 3x20x24", "UNet, levels 2, width 4, sigmoid"});
  // Of the size that it sees, images are not resized.
  const SmallUNet same{.image = {3, 16, 16}, .inner = net.inner};
  const at::Tensor small = random_images(2, 16, 16);
  EXPECT_TRUE(same.forward(small).equal(net.inner.forward(small)));
}

TEST(Resized, Freeze_GivesTheSameImages) {
  const SmallUNet net = small_unet();
  net.module->train();
  nn::with_torch_seed(3, [&] { (void)net.forward(at::rand({8, 3, 40, 48})); });
  net.module->eval();
  const at::Tensor images = random_images(3, 40, 48);
  const auto frozen = freeze(net);
  EXPECT_LT(difference(frozen.forward(images), net.forward(images)), 1e-5);
  EXPECT_EQ(frozen.output_shape, net.output_shape);
  const AnyTransform any{
      Resized<AnyTransform>{.image = net.image, .inner = net.inner, .output_shape = net.output_shape}};
  EXPECT_TRUE(any.can_freeze());
  EXPECT_LT(difference(freeze(any).forward(images), net.forward(images)), 1e-5);
  EXPECT_TRUE(any.module == net.inner.module);
}

TEST(Resized, ShapesThatDoNotFit_AreRefused) {
  expect_words(error_of([] {
                 SmallUNet{.image = {3, 40, 40}, .inner = {.image = {3, dynamic, dynamic}}}.check();
               }),
               {"Resized", "got 3x?x?", ".inner"});
  expect_words(
      error_of([] {
        SmallUNet{.image = {3, 40, 40}, .inner = {.image = {3, 16, 16}}, .output_shape = {3, 0, 9}}.check();
      }),
      {"Resized", "output_shape", "got 3x0x9"});
  expect_words(error_of([] {
                 SmallUNet{.image = {1, 40, 40}, .inner = {.image = {3, 16, 16}}}.check();
               }),
               {"Resized", "channels", "1x40x40", "3x16x16"});
}

TEST(Draw, UNetAndEncoderDecoder_GiveTheirBottleneck) {
  const at::Tensor images = random_images(2, 16, 16);
  const UNet<> unet{.image = {3, 16, 16}, .levels = 2, .width = 4};
  const EncoderDecoder<> narrow{.image = {3, 16, 16}, .levels = 2, .width = 6};
  const Drawn drawn = unet.draw(images), other = narrow.draw(images);
  EXPECT_TRUE(drawn.images.equal(unet.forward(images)));
  EXPECT_TRUE(other.images.equal(narrow.forward(images)));
  EXPECT_EQ(drawn.bottleneck.sizes(), (std::vector<std::int64_t>{2, 8}));  // 2f at two levels
  EXPECT_EQ(other.bottleneck.sizes(), (std::vector<std::int64_t>{2, 6}));
  EXPECT_TRUE(small_unet().draw(random_images(2, 40, 48)).bottleneck.defined());
  EXPECT_FALSE(draw(None<>{}, images).bottleneck.defined());
  EXPECT_FALSE(AnyTransform(None<>{}).draw(images).bottleneck.defined());
}

/// Six features: mean and standard deviation of each channel. Its module holds a factor.
struct Statistics {
  struct Module : torch::nn::Module {
    at::Tensor factor = register_buffer("factor", at::tensor({2.0f}));
  };
  ImageShape image = {3, 8, 8};
  int features = 6;
  std::shared_ptr<Module> module = std::make_shared<Module>();

  at::Tensor forward(const at::Tensor& images) const {
    return module->factor * at::cat({images.mean({2, 3}), images.flatten(2).std(2)}, 1);
  }
};
static_assert(Encoder<Statistics> && !Encoder<UNet<>>);

using Sketch = Encoded<Statistics>;
static_assert(EncodingTransform<Sketch> && Transform<Sketch>);

Sketch sketch(const ImageShape& draws = {3, 20, 36}) {
  return {.image = {3, 16, 16},
          .encoder = {},
          .decoder = {.features = 6, .image = draws, .bottleneck = 5, .width = 8}};
}

TEST(UpsamplingDecoder, Parameters_AreAsManyAsComputedByHand) {
  // 20×36 pixels are 2×3 places of 16. A unit of a → b has 9ab + 2b.
  const auto unit = [](int a, int b) { return 9 * a * b + 2 * b; };
  EXPECT_EQ(count_parameters(*sketch().decoder.module), (6 * 5 + 5) + (5 + 1) * (8 * 2 * 3) + 2 * 8 +
                                                            unit(8, 8) + unit(8, 4) + unit(4, 2) +
                                                            unit(2, 2) + (9 * 2 * 3 + 3));
}

TEST(UpsamplingDecoder, Standardize_StoresMeanAndDeviation) {
  const UpsamplingDecoder decoder{.features = 2, .image = {1, 4, 4}, .bottleneck = 3, .width = 4};
  const at::Tensor features = at::tensor({1.0f, 5.0f, 3.0f, 5.0f, 5.0f, 5.0f}).view({3, 2});
  const at::Tensor before =
      decoder.draw((features - at::tensor({3.0f, 5.0f})) / at::tensor({2.0f, 1e-5f})).images;
  decoder.standardize(features);
  const auto buffers = decoder.module->named_buffers(/*recurse=*/false);
  EXPECT_TRUE(buffers["mean"].equal(at::tensor({3.0f, 5.0f})));
  EXPECT_TRUE(buffers["deviation"].equal(at::tensor({2.0f, 1e-5f})));  // one feature does not vary
  EXPECT_LT(difference(decoder.draw(features).images, before), 1e-6);
  expect_words(error_of([&] { decoder.standardize(features.narrow(1, 0, 1)); }), {"two or more", "N×2"});
}

TEST(Encoded, Forward_DrawsTheFeaturesOfTheResizedImages) {
  const Sketch net = sketch();
  const at::Tensor images = random_images(3, 16, 16);
  const at::Tensor out = net.forward(images);
  EXPECT_EQ(out.sizes(), (std::vector<std::int64_t>{3, 3, 20, 36}));
  EXPECT_GT(out.min().item<float>(), 0);
  EXPECT_LT(out.max().item<float>(), 1);
  EXPECT_TRUE(out.equal(net.draw(net.encode(images)).images));
  EXPECT_EQ(net.draw(net.encode(images)).bottleneck.sizes(), (std::vector<std::int64_t>{3, 5}));
  // Means survive the filter, except for its cut at the border; images of the encoder's size are not resized.
  const at::Tensor small = random_images(2, 8, 8);
  EXPECT_LT(difference(net.encode(small).narrow(1, 0, 3), 2 * small.mean({2, 3})), 1e-6);
  expect_words(net.describe(),
               {"Encoded", "sees 3x8x8", "draws 3x20x36", "6 features", "bottleneck 5", "width 8"});
  const AnyTransform any(net);
  EXPECT_TRUE(any.forward(images).equal(out));
  EXPECT_TRUE(any.encoder_module() == net.encoder.module);
  EXPECT_TRUE(any.trained_module() == net.decoder.module);
  EXPECT_EQ(encoder_module_of(AnyTransform(None<>{})), nullptr);
  expect_words(error_of([&] { AnyTransform(None<>{}).encode(images); }), {"AnyTransform", "no encoder"});
}

TEST(Encoded, Backward_ReachesImagesAndDecoder) {
  const Sketch net = sketch();
  const at::Tensor images = random_images(2, 16, 16).requires_grad_();
  net.forward(images).square().sum().backward();
  EXPECT_GT(images.grad().abs().max().item<float>(), 0);
  for (const auto& item : net.decoder.module->named_parameters())
    EXPECT_TRUE(item.value().grad().defined()) << item.key();
}

TEST(Encoded, FreezeAndDeepCopy_ShareTheEncoder) {
  const Sketch net = sketch();
  net.module->train();
  nn::with_torch_seed(3, [&] { (void)net.forward(at::rand({8, 3, 16, 16})); });
  net.module->eval();
  const at::Tensor images = random_images(4, 16, 16), before = net.forward(images);
  const Sketch copy = nn::deep_copy(net);
  const auto frozen = freeze(net);
  EXPECT_TRUE(can_freeze(net));
  EXPECT_TRUE(copy.forward(images).equal(before));
  EXPECT_LT(difference(frozen.forward(images), before), 1e-5);
  EXPECT_LT(difference(freeze(AnyTransform(net)).forward(images), before), 1e-5);
  EXPECT_TRUE(copy.encoder_module() == net.encoder_module() &&
              frozen.encoder_module() == net.encoder_module());
  EXPECT_EQ(frozen.describe(), net.describe());
  {
    const c10::NoGradGuard no_grad;
    for (auto& parameter : net.decoder.module->parameters()) parameter.add_(1);
  }
  EXPECT_TRUE(copy.forward(images).equal(before));
  EXPECT_LT(difference(frozen.forward(images), before), 1e-5);
}

TEST(Encoded, Training_LeavesTheEncoderInEvaluationMode) {
  const Sketch net = sketch();
  net.module->train();
  EXPECT_FALSE(net.encoder.module->is_training());
  EXPECT_TRUE(net.decoder.module->is_training());
}

using SmallResNet = backbones::ResNet18<Task{{3, 16, 16}, 7}>;

TEST(BackboneEncoder, Features_AreWhatTheLastLayerTakes) {
  const SmallResNet network{.width = 4};
  const BackboneEncoder<backbones::Frozen<SmallResNet>> plain{.backbone = freeze(network)},
      normalized{.backbone = freeze(network), .normalization = normalizations::cifar10};
  EXPECT_EQ(plain.features, 32);  // eight times the width
  EXPECT_EQ(plain.image, (ImageShape{3, 16, 16}));
  const at::Tensor images = random_images(2, 16, 16);
  const auto linear = network.module->named_parameters();
  network.module->eval();
  EXPECT_LT(difference(at::linear(plain.forward(images), linear["linear.weight"], linear["linear.bias"]),
                       network.forward(images)),
            1e-5);
  const backbones::Normalized wrapped{network, normalizations::cifar10};
  EXPECT_LT(difference(normalized.forward(images), plain.forward(wrapped.normalize(images))), 1e-5);
  // It is frozen once, also where it is part of a transform that is frozen again.
  const Encoded<BackboneEncoder<backbones::Frozen<SmallResNet>>> net{
      .encoder = normalized, .decoder = {.features = 32, .image = {3, 16, 16}, .width = 8}};
  net.module->eval();
  const auto frozen = freeze(net);
  EXPECT_LT(difference(frozen.forward(images), net.forward(images)), 1e-5);
  EXPECT_LT(difference(freeze(net).forward(images), net.forward(images)), 1e-5);

  using Grey = backbones::ResNet18<Task{{1, 16, 16}, 7}>;
  const auto grey = freeze(Grey{.width = 4});
  const auto grey_error = [&](const Normalization& normalization) {
    return error_of([&] {
      (void)BackboneEncoder<backbones::Frozen<Grey>>{.backbone = grey, .normalization = normalization};
    });
  };
  EXPECT_EQ(grey_error(normalizations::fashion_mnist), "");
  expect_words(grey_error(normalizations::imagenet), {"BackboneEncoder", "has 3", "takes 1"});
  expect_words(grey_error({.deviation = {0, 0, 0}}), {"BackboneEncoder", "deviations", "got 0"});
  expect_words(grey_error({.mean = {NAN, NAN, NAN}}), {"BackboneEncoder", "means", "got nan"});

  using Open = backbones::ResNet18<>;
  const auto open = freeze(Open{.task = {{3, dynamic, dynamic}, 7}, .width = 4});
  expect_words(error_of([&] { (void)BackboneEncoder<backbones::Frozen<Open>>{.backbone = open}; }),
               {"BackboneEncoder", "must be known", "3x?x?"});
  EXPECT_EQ((BackboneEncoder<backbones::Frozen<Open>>{.backbone = open, .image = {3, 16, 16}}.features), 32);
  static_assert(!backbones::FeatureBackbone<backbones::AnyBackbone>);
}

/// A transform of which a part is trained, and whose members may not fit each other.
struct Partly {
  ImageShape image = {3, 16, 16};
  bool fits = true;
  UNet<> unet = {.image = {3, 16, 16}, .levels = 1, .width = 2};
  std::shared_ptr<torch::nn::Module> module = [this] {
    auto whole = std::make_shared<torch::nn::Module>();
    whole->register_module("unet", unet.module);
    return whole;
  }();

  at::Tensor forward(const at::Tensor& images) const { return unet.forward(images); }
  std::shared_ptr<torch::nn::Module> trained_module() const { return unet.module; }
  void check() const {
    if (!fits) throw Error("Partly: does not fit");
  }
};

template <typename T>
concept CanBeResized = requires {
  typename Resized<T>;
};
static_assert(CanBeResized<UNet<>> && CanBeResized<AnyTransform> && CanBeResized<Partly>);
static_assert(!CanBeResized<Sketch>);

TEST(Resized, EncoderInside_IsRefused) {
  const Resized<AnyTransform> encoded{.image = {3, 40, 40}, .inner = sketch({3, 16, 16})};
  for (const std::string& message :
       {error_of([&] { encoded.check(); }), error_of([&] { AnyTransform{encoded}; })})
    expect_words(message, {"Resized", "no encoder", "Encoded"});
}

TEST(Resized, InnerTransform_IsCheckedAndItsTrainedPartIsTrained) {
  const Resized<Partly> resized{.image = {3, 40, 40}, .inner = {}};
  EXPECT_TRUE(trained_module_of(resized) == resized.inner.unet.module);
  EXPECT_TRUE(trained_module_of(AnyTransform(resized)) == resized.inner.unet.module);
  EXPECT_TRUE(trained_module_of(small_unet()) != nullptr);
  Resized<Partly> broken = resized;
  broken.inner.fits = false;
  expect_words(error_of([&] { broken.check(); }), {"Partly", "does not fit"});
}

TEST(Encoded, PartsThatDoNotFit_AreRefused) {
  const auto message = [](const ImageShape& image, const Statistics& encoder,
                          const UpsamplingDecoder& decoder) {
    return error_of([&] { Sketch{.image = image, .encoder = encoder, .decoder = decoder}.check(); });
  };
  const UpsamplingDecoder decoder{.features = 6, .image = {3, 16, 16}, .width = 4};
  expect_words(message({3, 16, 16}, {.features = 7}, decoder), {"7 features", "takes 6", ".decoder"});
  expect_words(message({1, 16, 16}, {}, decoder), {"sees 3x8x8", "1x16x16", "channels"});
  expect_words(message({3, 16, 16}, {.image = {3, dynamic, 8}}, decoder), {"must be known", "3x?x8"});
  expect_words(error_of([&] {
                 Sketch{.encoder = {}, .decoder = decoder, .output_shape = {3, 8, 8}}.check();
               }),
               {"draws 3x16x16", "output_shape is 3x8x8"});
  for (const auto& [features, width] : {std::pair{0, 8}, std::pair{6, 6}, std::pair{6, 0}}) {
    expect_words(error_of([&] {
                   (void)UpsamplingDecoder{.features = features, .image = {3, 16, 16}, .width = width};
                 }),
                 {"UpsamplingDecoder", "multiple of 4", std::to_string(features), std::to_string(width)});
  }
  expect_words(error_of([] { (void)UpsamplingDecoder{.features = 6}; }),
               {"image shape must be known", "?x?x?"});
}

}  // namespace
}  // namespace refine::transforms
