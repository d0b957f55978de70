#pragma once

#include <refine/transforms/unet.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/max_pool2d.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/module.hpp>

namespace refine::transforms::detail {

REFINE_INLINE DoubleConvolution::DoubleConvolution(std::int64_t in, std::int64_t middle, std::int64_t out) {
  // The numbers count the ReLUs too, as in the authors' code.
  parts_ = register_module("double_conv", std::make_shared<torch::nn::Module>("double_conv"));
  for (int i = 0; i < 2; ++i) {
    const std::int64_t from = i == 0 ? in : middle, to = i == 0 ? middle : out;
    convolution_[i] = parts_->register_module(
        std::to_string(3 * i), torch::nn::Conv2d(torch::nn::Conv2dOptions(from, to, 3).padding(1)));
    norm_[i] = parts_->register_module(std::to_string(3 * i + 1), torch::nn::BatchNorm2d(to));
  }
}

REFINE_INLINE at::Tensor DoubleConvolution::forward(at::Tensor x) {
  for (int i = 0; i < 2; ++i) x = nn::conv_bn(convolution_[i], norm_[i], x).relu_();
  return x;
}

REFINE_INLINE void DoubleConvolution::fold() {
  for (int i = 0; i < 2; ++i) {
    nn::fold_conv_bn(*parts_, std::to_string(3 * i), convolution_[i], std::to_string(3 * i + 1), norm_[i]);
  }
}

REFINE_INLINE std::shared_ptr<DoubleConvolution> register_nested(torch::nn::Module& root,
                                                                 const std::vector<std::string>& path,
                                                                 std::shared_ptr<DoubleConvolution> leaf) {
  torch::nn::Module* parent = &root;
  for (std::size_t i = 0; i + 1 < path.size(); ++i) {
    parent = parent->register_module(path[i], std::make_shared<torch::nn::Module>(path[i])).get();
  }
  parent->register_module(path.back(), leaf);
  return leaf;
}

REFINE_INLINE UNetModule::UNetModule(std::int64_t channels, int levels, std::int64_t width,
                                     OutputActivation activation)
    : channels_(channels), levels_(levels), width_(width), activation_(activation) {
  down_.push_back(
      register_nested(*this, {"inc"}, std::make_shared<DoubleConvolution>(channels, width, width)));
  // f, 2f, 4f, … The bottom level has as many as the one above, because concatenation doubles them
  // on the way up.
  std::vector<std::int64_t> widths = {width};
  for (int level = 1; level <= levels; ++level) {
    widths.push_back(width << std::min(level, levels - 1));
    down_.push_back(register_nested(
        *this, {"down" + std::to_string(level), "maxpool_conv", "1"},
        std::make_shared<DoubleConvolution>(widths[level - 1], widths[level], widths[level])));
  }
  std::int64_t below = widths.back();
  for (int level = levels - 1; level >= 0; --level) {
    const std::int64_t in = below + widths[level];
    const std::int64_t out = level == 0 ? width : widths[level] / 2;
    up_.push_back(register_nested(*this, {"up" + std::to_string(levels - level), "conv"},
                                  std::make_shared<DoubleConvolution>(in, in / 2, out)));
    below = out;
  }
  auto outc = register_module("outc", std::make_shared<torch::nn::Module>("outc"));
  last_ = outc->register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(width, channels, 1)));
}

REFINE_INLINE std::shared_ptr<torch::nn::Module> UNetModule::clone(
    const std::optional<at::Device>& device) const {
  auto copy = std::make_shared<UNetModule>(channels_, levels_, width_, activation_);
  nn::detail::copy_tensors(named_parameters(), copy->named_parameters());
  nn::detail::copy_tensors(named_buffers(), copy->named_buffers());
  copy->train(is_training());
  if (device) copy->to(*device);
  return copy;
}

REFINE_INLINE at::Tensor UNetModule::forward(const at::Tensor& images) {
  return run(images, nullptr);
}

REFINE_INLINE Drawn UNetModule::draw(const at::Tensor& images) {
  at::Tensor coarsest;
  at::Tensor drawn = run(images, &coarsest);
  return {std::move(drawn), coarsest.mean({2, 3})};
}

REFINE_INLINE at::Tensor UNetModule::run(const at::Tensor& images, at::Tensor* coarsest) {
  std::vector<at::Tensor> skips = {down_[0]->forward(images)};
  for (std::size_t level = 1; level < down_.size(); ++level) {
    skips.push_back(down_[level]->forward(at::max_pool2d(skips.back(), {2, 2})));
  }
  at::Tensor x = skips.back();
  if (coarsest) *coarsest = x;
  for (std::size_t i = 0; i < up_.size(); ++i) {
    const at::Tensor& skip = skips[skips.size() - 2 - i];
    x = nn::resize_bilinear(x, 2 * x.size(2), 2 * x.size(3), /*align_corners=*/true);
    const std::int64_t dy = skip.size(2) - x.size(2), dx = skip.size(3) - x.size(3);
    if (dy != 0 || dx != 0) x = at::constant_pad_nd(x, {dx / 2, dx - dx / 2, dy / 2, dy - dy / 2});
    x = up_[i]->forward(at::cat({skip, x}, 1));
  }
  x = last_->forward(x);
  return apply_activation(x, activation_);
}

}  // namespace refine::transforms::detail
