#pragma once

#include <refine/transforms/encoder_decoder.hpp>

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/pixel_shuffle.h>
#include <ATen/ops/pixel_unshuffle.h>

#include <cstddef>
#include <utility>

#include <refine/core/config.hpp>

namespace refine::transforms::detail {

REFINE_INLINE ConvolutionUnit::ConvolutionUnit(std::int64_t in, std::int64_t out, std::int64_t kernel)
    : in_(in), out_(out), kernel_(kernel) {
  reset();
}

REFINE_INLINE void ConvolutionUnit::reset() {
  conv_ = register_module(
      "conv",
      torch::nn::Conv2d(torch::nn::Conv2dOptions(in_, out_, kernel_).padding(kernel_ / 2).bias(false)));
  norm_ = register_module("norm", torch::nn::BatchNorm2d(out_));
}

REFINE_INLINE void ConvolutionUnit::fold() {
  nn::fold_conv_bn(*this, "conv", conv_, "norm", norm_);
}

REFINE_INLINE EncoderDecoderModule::EncoderDecoderModule(std::int64_t channels, int levels,
                                                         std::int64_t width, OutputActivation activation)
    : channels_(channels), levels_(levels), width_(width), activation_(activation) {
  reset();
}

REFINE_INLINE void EncoderDecoderModule::reset() {
  encoder_.clear();
  decoder_.clear();
  const auto unit = [&](const std::string& name, std::int64_t in, std::int64_t out, std::int64_t kernel) {
    return register_module(name, std::make_shared<ConvolutionUnit>(in, out, kernel));
  };
  std::int64_t in = patch * patch * channels_;
  for (int level = 0; level < levels_; ++level) {
    const std::int64_t out = width_ << level;
    const std::string name = "encoder" + std::to_string(level + 1);
    encoder_.push_back(unit(name + "_1", in, out, 3));
    encoder_.push_back(unit(name + "_2", out, out, 3));
    in = out;
  }
  bottleneck_ = unit("bottleneck", in, width_, 1);
  for (int level = levels_ - 1; level > 0; --level) {
    decoder_.push_back(unit("decoder" + std::to_string(level), width_, level == 1 ? width_ / 2 : width_, 3));
  }
  last_ = register_module(
      "last", torch::nn::Conv2d(torch::nn::Conv2dOptions(width_ / 2, patch * patch * channels_, 1)));
}

REFINE_INLINE at::Tensor EncoderDecoderModule::forward(const at::Tensor& images) {
  return run(images, nullptr);
}

REFINE_INLINE Drawn EncoderDecoderModule::draw(const at::Tensor& images) {
  at::Tensor bottleneck;
  at::Tensor drawn = run(images, &bottleneck);
  return {std::move(drawn), bottleneck.mean({2, 3})};
}

REFINE_INLINE at::Tensor EncoderDecoderModule::run(const at::Tensor& images, at::Tensor* bottleneck) {
  const std::int64_t multiple = std::int64_t{1} << levels_, height = images.size(2), width = images.size(3);
  const std::int64_t bottom = (multiple - height % multiple) % multiple,
                     right = (multiple - width % multiple) % multiple;
  const bool divisible = bottom == 0 && right == 0;
  at::Tensor x = divisible ? images : at::constant_pad_nd(images, {0, right, 0, bottom});
  x = at::pixel_unshuffle(x, patch).contiguous(images.suggest_memory_format());
  for (std::size_t i = 0; i < encoder_.size(); ++i) {
    if (i > 0 && i % 2 == 0) x = at::max_pool2d(x, {2, 2});
    x = encoder_[i]->forward(x);
  }
  x = bottleneck_->forward(x);
  if (bottleneck) *bottleneck = x;
  for (const auto& unit : decoder_) {
    x = nn::resize_bilinear(x, 2 * x.size(2), 2 * x.size(3));
    x = unit->forward(x);
  }
  x = at::pixel_shuffle(last_->forward(x), patch);
  if (!divisible) x = x.narrow(2, 0, height).narrow(3, 0, width);
  return apply_activation(x, activation_).contiguous(images.suggest_memory_format());
}

}  // namespace refine::transforms::detail
