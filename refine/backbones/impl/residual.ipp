#pragma once

#include <refine/backbones/detail/residual.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/max_pool2d.h>

#include <cstddef>
#include <string>
#include <utility>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones::detail {

/// Returns a convolution without bias, padded so that stride 1 keeps the size.
REFINE_INLINE torch::nn::Conv2d plain_convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                                  std::int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

/// Convolutions with a shortcut (He et al., 2016, `he2016resnet`). In a bottleneck of stride 2, the
/// 3×3 convolution strides, as in the authors' code and in torchvision.
class ResidualBlock : public torch::nn::Cloneable<ResidualBlock>, public nn::Foldable {
 public:
  ResidualBlock(const ResidualPlan& plan, std::int64_t in, std::int64_t inner, std::int64_t stride);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x);

  REFINE_INLINE void fold() override;

 private:
  torch::nn::Conv2d shortcut_convolution() const;

  at::Tensor apply_shortcut(const at::Tensor& x);

  void add(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride);

  const char* shortcut_name() const;

  ResidualPlan plan_;
  std::int64_t in_, inner_, stride_;
  std::vector<torch::nn::Conv2d> convolutions_;
  std::vector<torch::nn::BatchNorm2d> norms_;
  torch::nn::Sequential shortcut_{nullptr};
};

REFINE_INLINE ResidualBlock::ResidualBlock(const ResidualPlan& plan, std::int64_t in, std::int64_t inner,
                                           std::int64_t stride)
    : plan_(plan), in_(in), inner_(inner), stride_(stride) {
  reset();
}

REFINE_INLINE void ResidualBlock::reset() {
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

REFINE_INLINE at::Tensor ResidualBlock::forward(const at::Tensor& x) {
  at::Tensor y = x;
  for (std::size_t i = 0; i < convolutions_.size(); ++i) {
    if (i > 0) y.relu_();
    y = nn::conv_bn(convolutions_[i], norms_[i], y);
  }
  return y.add_(apply_shortcut(x)).relu_();
}

REFINE_INLINE void ResidualBlock::fold() {
  for (std::size_t i = 0; i < convolutions_.size(); ++i) {
    const std::string number = std::to_string(i + 1);
    nn::fold_conv_bn(*this, "conv" + number, convolutions_[i], "bn" + number, norms_[i]);
  }
  if (shortcut_.is_empty()) return;
  const torch::nn::Conv2d convolution = shortcut_convolution();
  const torch::nn::BatchNorm2d norm(std::dynamic_pointer_cast<torch::nn::BatchNorm2dImpl>(shortcut_->ptr(1)));
  shortcut_ = replace_module(shortcut_name(), torch::nn::Sequential(nn::folded(convolution, norm)));
}

REFINE_INLINE torch::nn::Conv2d ResidualBlock::shortcut_convolution() const {
  return std::dynamic_pointer_cast<torch::nn::Conv2dImpl>(shortcut_->ptr(0));
}

REFINE_INLINE at::Tensor ResidualBlock::apply_shortcut(const at::Tensor& x) {
  if (shortcut_.is_empty()) return x;
  torch::nn::Conv2d convolution = shortcut_convolution();
  const at::Tensor y = nn::convolve(convolution, x);
  return shortcut_->size() == 1 ? y : nn::batch_norm(*shortcut_->ptr(1)->as<torch::nn::BatchNorm2dImpl>(), y);
}

REFINE_INLINE void ResidualBlock::add(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                      std::int64_t stride) {
  const std::string number = std::to_string(convolutions_.size() + 1);
  convolutions_.push_back(register_module("conv" + number, plain_convolution(in, out, kernel, stride)));
  norms_.push_back(register_module("bn" + number, torch::nn::BatchNorm2d(out)));
}

REFINE_INLINE const char* ResidualBlock::shortcut_name() const {
  return plan_.variant == Variant::cifar ? "shortcut" : "downsample";
}

REFINE_INLINE ResidualModule::ResidualModule(const ResidualPlan& plan) : plan_(plan) {
  reset();
}

REFINE_INLINE void ResidualModule::reset() {
  const bool cifar = plan_.variant == Variant::cifar;
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
  last_ = register_module(cifar ? "linear" : "fc", torch::nn::Linear(in, plan_.classes));
  if (!cifar) kaiming_normal_fan_out_(*this);
}

REFINE_INLINE at::Tensor ResidualModule::features(const at::Tensor& images) {
  at::Tensor x = nn::conv_bn(conv1_, bn1_, images).relu_();
  if (plan_.stem.pooling) x = at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1});
  for (int stage = 0; stage < stages(); ++stage) x = after_stage(stage, layers_[stage]->forward(x));
  return x.mean({2, 3});
}

REFINE_INLINE at::Tensor ResidualModule::forward(const at::Tensor& images) {
  return last_->forward(features(images));
}

REFINE_INLINE void ResidualModule::fold() {
  nn::fold_conv_bn(*this, "conv1", conv1_, "bn1", bn1_);
}

REFINE_INLINE std::shared_ptr<ResidualModule> make_residual(std::string_view network, const Task& fixed,
                                                            const Task& specified,
                                                            const std::array<int, 4>& blocks, bool bottleneck,
                                                            int width, std::optional<Variant> variant,
                                                            std::optional<Stem> stem, std::uint64_t seed) {
  const Task task = merged(fixed, specified);
  const Variant chosen = variant.value_or(variant_for(task.image));
  const Stem first = stem.value_or(stem_of(chosen));
  if (first.kernel != 3 && first.kernel != 7) {
    throw Error("{}: the stem must be of 3x3 or 7x7 pixels, got {}x{}", network, first.kernel, first.kernel);
  }
  require_buildable(network, fixed, specified, min_side(first), width);
  return nn::with_torch_seed(seed, [&] {
    return std::make_shared<ResidualModule>(ResidualPlan{.channels = task.image.channels,
                                                         .classes = task.classes,
                                                         .width = width,
                                                         .blocks = blocks,
                                                         .bottleneck = bottleneck,
                                                         .variant = chosen,
                                                         .stem = first});
  });
}

/// Two 3×3 convolutions, each after its BatchNorm and ReLU (He et al., 2016, `he2016identity`). If
/// the shape changes, the shortcut is a 1×1 convolution of the first ReLU's output; otherwise it is
/// the block's input.
class PreActBlock : public torch::nn::Cloneable<PreActBlock>, public nn::Foldable {
 public:
  PreActBlock(std::int64_t in, std::int64_t out, std::int64_t stride);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x);

  /// Folds the second BatchNorm into the first convolution. The first BatchNorm stays, because it
  /// follows an addition.
  REFINE_INLINE void fold() override;

 private:
  torch::nn::Conv2d shortcut_convolution() const;

  std::int64_t in_, out_, stride_;
  torch::nn::BatchNorm2d bn1_{nullptr}, bn2_{nullptr};
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  torch::nn::Sequential shortcut_{nullptr};
};

REFINE_INLINE PreActBlock::PreActBlock(std::int64_t in, std::int64_t out, std::int64_t stride)
    : in_(in), out_(out), stride_(stride) {
  reset();
}

REFINE_INLINE void PreActBlock::reset() {
  bn1_ = register_module("bn1", torch::nn::BatchNorm2d(in_));
  conv1_ = register_module("conv1", plain_convolution(in_, out_, 3, stride_));
  bn2_ = register_module("bn2", torch::nn::BatchNorm2d(out_));
  conv2_ = register_module("conv2", plain_convolution(out_, out_, 3, 1));
  if (stride_ == 1 && in_ == out_) return;
  shortcut_ = register_module("shortcut", torch::nn::Sequential(plain_convolution(in_, out_, 1, stride_)));
}

REFINE_INLINE torch::nn::Conv2d PreActBlock::shortcut_convolution() const {
  return std::dynamic_pointer_cast<torch::nn::Conv2dImpl>(shortcut_->ptr(0));
}

REFINE_INLINE at::Tensor PreActBlock::forward(const at::Tensor& x) {
  const at::Tensor active = nn::apply_batch_norm(bn1_, x).relu_();
  at::Tensor shortcut = x;
  if (!shortcut_.is_empty()) {
    torch::nn::Conv2d convolution = shortcut_convolution();
    shortcut = nn::convolve(convolution, active);
  }
  const at::Tensor y = nn::conv_bn(conv1_, bn2_, active).relu_();
  return nn::convolve(conv2_, y).add_(shortcut);
}

REFINE_INLINE void PreActBlock::fold() {
  nn::fold_conv_bn(*this, "conv1", conv1_, "bn2", bn2_);
}

REFINE_INLINE PreActModule::PreActModule(const PreActPlan& plan) : plan_(plan) {
  reset();
}

REFINE_INLINE void PreActModule::reset() {
  conv1_ = register_module("conv1", plain_convolution(plan_.channels, plan_.width, 3, 1));
  layers_.clear();
  std::int64_t in = plan_.width;
  for (std::size_t stage = 0; stage < plan_.blocks.size(); ++stage) {
    const std::int64_t out = plan_.width << stage;
    torch::nn::Sequential layer;
    for (int block = 0; block < plan_.blocks[stage]; ++block) {
      layer->push_back(std::make_shared<PreActBlock>(in, out, stage > 0 && block == 0 ? 2 : 1));
      in = out;
    }
    layers_.push_back(register_module("layer" + std::to_string(stage + 1), std::move(layer)));
  }
  if (plan_.last_norm) last_norm_ = register_module("bn", torch::nn::BatchNorm2d(in));
  linear_ = register_module("linear", torch::nn::Linear(in, plan_.classes));
}

REFINE_INLINE at::Tensor PreActModule::features(const at::Tensor& images) {
  at::Tensor x = nn::convolve(conv1_, images);
  for (int stage = 0; stage < stages(); ++stage) x = after_stage(stage, layers_[stage]->forward(x));
  if (!last_norm_.is_empty()) x = nn::apply_batch_norm(last_norm_, x).relu_();
  return x.mean({2, 3});
}

REFINE_INLINE at::Tensor PreActModule::forward(const at::Tensor& images) {
  return linear_->forward(features(images));
}

}  // namespace refine::backbones::detail
