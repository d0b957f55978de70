#pragma once

#include <refine/transforms/encoded.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cstddef>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/nn/conv.hpp>

namespace refine::transforms::detail {

REFINE_INLINE UpsamplingModule::UpsamplingModule(std::int64_t features, const ImageShape& image,
                                                 std::int64_t bottleneck, std::int64_t width)
    : features_(features), image_(image), bottleneck_(bottleneck), width_(width) {
  reset();
}

REFINE_INLINE void UpsamplingModule::reset() {
  constexpr int factor = 1 << levels;
  const std::int64_t height = (image_.height + factor - 1) / factor,
                     width = (image_.width + factor - 1) / factor;
  mean_ = register_buffer("mean", at::zeros({features_}));
  deviation_ = register_buffer("deviation", at::ones({features_}));
  reduce_ = register_module("reduce", torch::nn::Linear(features_, bottleneck_));
  start_ = register_module("start", torch::nn::Linear(bottleneck_, width_ * height * width));
  start_norm_ = register_module("start_norm", torch::nn::BatchNorm2d(width_));
  units_.clear();
  std::int64_t in = width_;
  for (int level = 1; level <= levels; ++level) {
    const std::int64_t out = level == 1 ? width_ : level == 2 ? width_ / 2 : width_ / 4;
    units_.push_back(
        register_module("unit" + std::to_string(level), std::make_shared<ConvolutionUnit>(in, out, 3)));
    in = out;
  }
  last_ =
      register_module("last", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, image_.channels, 3).padding(1)));
}

REFINE_INLINE Drawn UpsamplingModule::draw(const at::Tensor& features) {
  constexpr int factor = 1 << levels;
  const std::int64_t height = (image_.height + factor - 1) / factor,
                     width = (image_.width + factor - 1) / factor;
  const at::Tensor bottleneck = reduce_->forward((features - mean_) / deviation_).relu();
  at::Tensor x = start_->forward(bottleneck).view({-1, width_, height, width});
  x = nn::batch_norm(*start_norm_, x.contiguous(at::MemoryFormat::ChannelsLast));
  for (const auto& unit : units_) {
    x = unit->forward(nn::resize_bilinear(x, 2 * x.size(2), 2 * x.size(3)));
  }
  x = nn::convolve(last_, x);
  if (height * factor != image_.height) x = x.narrow(2, 0, image_.height);
  if (width * factor != image_.width) x = x.narrow(3, 0, image_.width);
  return {x.sigmoid().contiguous(at::MemoryFormat::ChannelsLast), bottleneck};
}

REFINE_INLINE void UpsamplingModule::standardize(const at::Tensor& features) {
  const c10::NoGradGuard no_grad;
  if (features.dim() != 2 || features.size(1) != features_ || features.size(0) < 2) {
    throw Error("UpsamplingDecoder: standardize needs the features of two or more images, N×{}", features_);
  }
  constexpr double smallest = 1e-5;  // a feature that does not vary
  mean_.copy_(features.mean(0));
  deviation_.copy_(features.std(0).clamp_min(smallest));
}

REFINE_INLINE EncodedModule::EncodedModule(std::shared_ptr<torch::nn::Module> encoder,
                                           std::shared_ptr<torch::nn::Module> decoder)
    : encoder_(std::move(encoder)), decoder_(std::move(decoder)) {
  register_module("encoder", encoder_);
  register_module("decoder", decoder_);
}

REFINE_INLINE std::shared_ptr<torch::nn::Module> EncodedModule::clone(
    const std::optional<at::Device>& device) const {
  auto copy = std::make_shared<EncodedModule>(encoder_, decoder_->clone(device));
  copy->train(is_training());
  return copy;
}

REFINE_INLINE void EncodedModule::train(bool on) {
  torch::nn::Module::train(on);
  encoder_->eval();
}

}  // namespace refine::transforms::detail

namespace refine::transforms {

REFINE_INLINE std::string UpsamplingDecoder::describe() const {
  return "UpsamplingDecoder, " + std::to_string(features) + " features, bottleneck " +
         std::to_string(bottleneck) + ", width " + std::to_string(width);
}

REFINE_INLINE std::shared_ptr<detail::UpsamplingModule> UpsamplingDecoder::make(int features,
                                                                                const ImageShape& image,
                                                                                int bottleneck, int width,
                                                                                std::uint64_t seed) {
  Message why;
  if (features < 1 || bottleneck < 1 || width < 4 || width % 4 != 0) {
    why << "UpsamplingDecoder: features and bottleneck must be at least 1, and width a multiple of 4 (got "
        << features << ", " << bottleneck << " and " << width << ")";
  } else if (!image.is_static() || image.channels < 1 || image.height < 1 || image.width < 1) {
    why << "UpsamplingDecoder: the image shape must be known (got " << image
        << "); set .image = ImageShape{3, 96, 96}";
  }
  require_agreement(why);
  return nn::with_torch_seed(
      seed, [&] { return std::make_shared<detail::UpsamplingModule>(features, image, bottleneck, width); });
}

}  // namespace refine::transforms
