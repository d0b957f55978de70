#pragma once

#include <refine/backbones/densenet.hpp>

#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/max_pool2d.h>
#include <torch/nn/init.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>

#include <cstddef>
#include <string>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/fold.hpp>

namespace refine::backbones::detail {

/// Returns a convolution without bias, padded so that stride 1 keeps the size, with torchvision's
/// initial weights.
REFINE_INLINE torch::nn::Conv2d dense_convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                                  std::int64_t stride = 1) {
  torch::nn::Conv2d convolution(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
  torch::nn::init::kaiming_normal_(convolution->weight);
  return convolution;
}

/// (BatchNorm, ReLU, convolution) twice: 1×1 to four times the growth, then 3×3 to the growth.
/// Returns its input with the result appended as further channels.
class DenseLayer : public torch::nn::Cloneable<DenseLayer>, public nn::Foldable {
 public:
  DenseLayer(std::int64_t in, std::int64_t growth);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x);

  REFINE_INLINE void fold() override;

 private:
  std::int64_t in_, growth_;
  torch::nn::BatchNorm2d norm1_{nullptr}, norm2_{nullptr};
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
};

/// Halves channels and sides between two blocks.
class DenseTransition : public torch::nn::Cloneable<DenseTransition> {
 public:
  explicit DenseTransition(std::int64_t in);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x);

 private:
  std::int64_t in_;
  torch::nn::BatchNorm2d norm_{nullptr};
  torch::nn::Conv2d conv_{nullptr};
};

/// All layers but the last: images N×C×H×W → features N×16·width×H/32×W/32, roughly.
class DenseFeatures : public torch::nn::Cloneable<DenseFeatures>, public nn::Foldable, public Staged {
 public:
  DenseFeatures(std::int64_t channels, std::int64_t width);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

  REFINE_INLINE void fold() override;

  int stages() const override { return 4; }

 private:
  std::int64_t channels_, width_;
  torch::nn::Conv2d conv0_{nullptr};
  torch::nn::BatchNorm2d norm0_{nullptr}, norm5_{nullptr};
  std::vector<torch::nn::Sequential> blocks_;
  std::vector<std::shared_ptr<DenseTransition>> transitions_;
};

REFINE_INLINE DenseLayer::DenseLayer(std::int64_t in, std::int64_t growth) : in_(in), growth_(growth) {
  reset();
}

REFINE_INLINE void DenseLayer::reset() {
  norm1_ = register_module("norm1", torch::nn::BatchNorm2d(in_));
  conv1_ = register_module("conv1", dense_convolution(in_, 4 * growth_, 1));
  norm2_ = register_module("norm2", torch::nn::BatchNorm2d(4 * growth_));
  conv2_ = register_module("conv2", dense_convolution(4 * growth_, growth_, 3));
}

REFINE_INLINE at::Tensor DenseLayer::forward(const at::Tensor& x) {
  const at::Tensor y = conv1_->forward(nn::apply_batch_norm(norm1_, x).relu_());
  return at::cat({x, nn::convolve(conv2_, nn::apply_batch_norm(norm2_, y).relu_())}, 1);
}

REFINE_INLINE void DenseLayer::fold() {
  nn::fold_conv_bn(*this, "conv1", conv1_, "norm2", norm2_);
}

REFINE_INLINE DenseTransition::DenseTransition(std::int64_t in) : in_(in) {
  reset();
}

REFINE_INLINE void DenseTransition::reset() {
  norm_ = register_module("norm", torch::nn::BatchNorm2d(in_));
  conv_ = register_module("conv", dense_convolution(in_, in_ / 2, 1));
}

REFINE_INLINE at::Tensor DenseTransition::forward(const at::Tensor& x) {
  return at::avg_pool2d(conv_->forward(nn::apply_batch_norm(norm_, x).relu_()), {2, 2});
}

REFINE_INLINE DenseFeatures::DenseFeatures(std::int64_t channels, std::int64_t width)
    : channels_(channels), width_(width) {
  reset();
}

REFINE_INLINE void DenseFeatures::reset() {
  constexpr int depths[] = {6, 12, 24, 16};
  const std::int64_t growth = width_ / 2;
  conv0_ = register_module("conv0", dense_convolution(channels_, width_, 7, 2));
  norm0_ = register_module("norm0", torch::nn::BatchNorm2d(width_));
  blocks_.clear();
  transitions_.clear();
  std::int64_t in = width_;
  for (int level = 1; level <= 4; ++level) {
    torch::nn::Sequential block;
    for (int i = 1; i <= depths[level - 1]; ++i, in += growth) {
      block->push_back("denselayer" + std::to_string(i), std::make_shared<DenseLayer>(in, growth));
    }
    blocks_.push_back(register_module("denseblock" + std::to_string(level), block));
    if (level == 4) break;
    transitions_.push_back(
        register_module("transition" + std::to_string(level), std::make_shared<DenseTransition>(in)));
    in /= 2;
  }
  norm5_ = register_module("norm5", torch::nn::BatchNorm2d(in));
}

REFINE_INLINE at::Tensor DenseFeatures::forward(const at::Tensor& images) {
  at::Tensor x = nn::apply_batch_norm(norm0_, conv0_->forward(images)).relu_();
  x = at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1});
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    x = after_stage(static_cast<int>(i), blocks_[i]->forward(x));
    if (i < transitions_.size()) x = transitions_[i]->forward(x);
  }
  return nn::apply_batch_norm(norm5_, x).relu_();
}

REFINE_INLINE void DenseFeatures::fold() {
  nn::fold_conv_bn(*this, "conv0", conv0_, "norm0", norm0_);
}

REFINE_INLINE DenseNet121Module::DenseNet121Module(std::int64_t channels, std::int64_t classes,
                                                   std::int64_t width)
    : channels_(channels), classes_(classes), width_(width) {
  reset();
}

REFINE_INLINE void DenseNet121Module::reset() {
  features_ = register_module("features", std::make_shared<DenseFeatures>(channels_, width_));
  classifier_ = register_module("classifier", torch::nn::Linear(16 * width_, classes_));
  torch::nn::init::zeros_(classifier_->bias);
}

REFINE_INLINE at::Tensor DenseNet121Module::features(const at::Tensor& images) {
  return features_->forward(images).mean({2, 3});
}

REFINE_INLINE at::Tensor DenseNet121Module::forward(const at::Tensor& images) {
  return classifier_->forward(features(images));
}

}  // namespace refine::backbones::detail
