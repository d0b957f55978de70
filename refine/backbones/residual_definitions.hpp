#pragma once

// What residual.hpp declares.

#include <refine/backbones/residual.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/max_pool2d.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <refine/backbones/fan_out.hpp>
#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>
#include <refine/nn/convolve.hpp>
#include <refine/nn/convolve_normed.hpp>

namespace refine::backbones::detail {

REFINE_DEFINITION torch::nn::Conv2d plain_convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                                      std::int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

/// Convolutions around a shortcut (He et al., 2016, `he2016resnet`). Where a bottleneck strides, its 3×3
/// convolution does, as in the reference and in torchvision.
class ResidualBlock : public torch::nn::Cloneable<ResidualBlock>, public nn::Foldable {
 public:
  ResidualBlock(const ResidualPlan& plan, std::int64_t in, std::int64_t inner, std::int64_t stride);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& x);

  REFINE_DEFINITION void fold() override;

 private:
  torch::nn::Conv2d shortcut_convolution() const;

  at::Tensor shortened(const at::Tensor& x);

  void add(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride);

  const char* shortcut_name() const;

  ResidualPlan plan_;
  std::int64_t in_, inner_, stride_;
  std::vector<torch::nn::Conv2d> convolutions_;
  std::vector<torch::nn::BatchNorm2d> norms_;
  torch::nn::Sequential shortcut_{nullptr};
};

REFINE_DEFINITION ResidualBlock::ResidualBlock(const ResidualPlan& plan, std::int64_t in, std::int64_t inner,
                                               std::int64_t stride)
    : plan_(plan), in_(in), inner_(inner), stride_(stride) {
  reset();
}

REFINE_DEFINITION void ResidualBlock::reset() {
  convolutions_.clear();
  norms_.clear();
  const std::int64_t out = inner_ * plan_.expansion();
  if (plan_.bottleneck) add(in_, inner_, 1, 1);
  add(plan_.bottleneck ? inner_ : in_, inner_, 3, stride_);
  add(inner_, out, plan_.bottleneck ? 1 : 3, 1);
  if (stride_ == 1 && in_ == out) return;
  shortcut_ = torch::nn::Sequential(plain_convolution(in_, out, 1, stride_), torch::nn::BatchNorm2d(out));
  register_module(shortcut_name(), shortcut_);
}

REFINE_DEFINITION at::Tensor ResidualBlock::forward(const at::Tensor& x) {
  at::Tensor y = x;
  for (std::size_t i = 0; i < convolutions_.size(); ++i) {
    if (i > 0) y.relu_();
    y = nn::convolve_normed(convolutions_[i], norms_[i], y);
  }
  return y.add_(shortened(x)).relu_();
}

REFINE_DEFINITION void ResidualBlock::fold() {
  for (std::size_t i = 0; i < convolutions_.size(); ++i) {
    const std::string number = std::to_string(i + 1);
    nn::fold_pair(*this, "conv" + number, convolutions_[i], "bn" + number, norms_[i]);
  }
  if (shortcut_.is_empty()) return;
  const torch::nn::Conv2d convolution = shortcut_convolution();
  const torch::nn::BatchNorm2d norm(std::dynamic_pointer_cast<torch::nn::BatchNorm2dImpl>(shortcut_->ptr(1)));
  shortcut_ = replace_module(shortcut_name(), torch::nn::Sequential(nn::folded(convolution, norm)));
}

REFINE_DEFINITION torch::nn::Conv2d ResidualBlock::shortcut_convolution() const {
  return std::dynamic_pointer_cast<torch::nn::Conv2dImpl>(shortcut_->ptr(0));
}

REFINE_DEFINITION at::Tensor ResidualBlock::shortened(const at::Tensor& x) {
  if (shortcut_.is_empty()) return x;
  torch::nn::Conv2d convolution = shortcut_convolution();
  const at::Tensor y = nn::convolve(convolution, x);
  return shortcut_->size() == 1 ? y : shortcut_->ptr(1)->as<torch::nn::BatchNorm2dImpl>()->forward(y);
}

REFINE_DEFINITION void ResidualBlock::add(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                          std::int64_t stride) {
  const std::string number = std::to_string(convolutions_.size() + 1);
  convolutions_.push_back(register_module("conv" + number, plain_convolution(in, out, kernel, stride)));
  norms_.push_back(register_module("bn" + number, torch::nn::BatchNorm2d(out)));
}

REFINE_DEFINITION const char* ResidualBlock::shortcut_name() const {
  return plan_.form == Form::small ? "shortcut" : "downsample";
}

REFINE_DEFINITION void require_stem(std::string_view network, const Stem& stem) {
  if (stem.kernel == 3 || stem.kernel == 7) return;
  throw Error("{}'s stem must be of 3x3 or 7x7 pixels, got {}x{}", network, stem.kernel, stem.kernel);
}

REFINE_DEFINITION ResidualModule::ResidualModule(const ResidualPlan& plan) : plan_(plan) {
  reset();
}

REFINE_DEFINITION void ResidualModule::reset() {
  const bool small = plan_.form == Form::small;
  const Stem& stem = plan_.stem;
  conv1_ = register_module(
      "conv1", plain_convolution(plan_.channels, plan_.width, stem.kernel, stem.kernel == 3 ? 1 : 2));
  bn1_ = register_module("bn1", torch::nn::BatchNorm2d(plan_.width));
  layers_.clear();
  std::int64_t in = plan_.width;
  for (std::size_t stage = 0; stage < plan_.blocks.size(); ++stage) {
    const std::int64_t inner = plan_.width << stage;
    torch::nn::Sequential layer;
    for (int block = 0; block < plan_.blocks[stage]; ++block) {
      const std::int64_t stride = stage > 0 && block == 0 ? 2 : 1;
      layer->push_back(std::make_shared<ResidualBlock>(plan_, in, inner, stride));
      in = inner * plan_.expansion();
    }
    layers_.push_back(register_module("layer" + std::to_string(stage + 1), std::move(layer)));
  }
  last_ = register_module(small ? "linear" : "fc", torch::nn::Linear(in, plan_.classes));
  if (!small) draw_by_fan_out(*this);
}

REFINE_DEFINITION at::Tensor ResidualModule::forward(const at::Tensor& images) {
  at::Tensor x = nn::convolve_normed(conv1_, bn1_, images).relu_();
  if (plan_.stem.pooling) x = at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1});
  for (auto& layer : layers_) x = layer->forward(x);
  return last_->forward(x.mean({2, 3}));
}

REFINE_DEFINITION void ResidualModule::fold() {
  nn::fold_pair(*this, "conv1", conv1_, "bn1", bn1_);
}

}  // namespace refine::backbones::detail
