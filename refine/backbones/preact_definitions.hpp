#pragma once

// What preact.hpp declares.

#include <refine/backbones/preact.hpp>

#include <ATen/TensorOperators.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <refine/core/compiled.hpp>
#include <refine/nn/convolve.hpp>
#include <refine/nn/convolve_normed.hpp>
#include <refine/nn/foldable.hpp>

namespace refine::backbones::detail {

/// Two 3×3 convolutions, each behind its own BatchNorm and ReLU (He et al., 2016, `he2016identity`). Where the
/// shape changes, the shortcut is a 1×1 convolution of what the first BatchNorm and ReLU give; else it is the
/// block's input.
class PreActBlock : public torch::nn::Cloneable<PreActBlock>, public nn::Foldable {
 public:
  PreActBlock(std::int64_t in, std::int64_t out, std::int64_t stride);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& x);

  /// The second BatchNorm goes into the first convolution. The first stays: what it sees is a sum.
  REFINE_DEFINITION void fold() override;

 private:
  torch::nn::Conv2d shortcut_convolution() const;

  std::int64_t in_, out_, stride_;
  torch::nn::BatchNorm2d bn1_{nullptr}, bn2_{nullptr};
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  torch::nn::Sequential shortcut_{nullptr};
};

REFINE_DEFINITION torch::nn::Conv2d bare_convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                                     std::int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

REFINE_DEFINITION PreActBlock::PreActBlock(std::int64_t in, std::int64_t out, std::int64_t stride)
    : in_(in), out_(out), stride_(stride) {
  reset();
}

REFINE_DEFINITION void PreActBlock::reset() {
  bn1_ = register_module("bn1", torch::nn::BatchNorm2d(in_));
  conv1_ = register_module("conv1", bare_convolution(in_, out_, 3, stride_));
  bn2_ = register_module("bn2", torch::nn::BatchNorm2d(out_));
  conv2_ = register_module("conv2", bare_convolution(out_, out_, 3, 1));
  if (stride_ == 1 && in_ == out_) return;
  shortcut_ = register_module("shortcut", torch::nn::Sequential(bare_convolution(in_, out_, 1, stride_)));
}

REFINE_DEFINITION torch::nn::Conv2d PreActBlock::shortcut_convolution() const {
  return std::dynamic_pointer_cast<torch::nn::Conv2dImpl>(shortcut_->ptr(0));
}

REFINE_DEFINITION at::Tensor PreActBlock::forward(const at::Tensor& x) {
  const at::Tensor active = bn1_->forward(x).relu_();
  at::Tensor shortcut = x;
  if (!shortcut_.is_empty()) {
    torch::nn::Conv2d convolution = shortcut_convolution();
    shortcut = nn::convolve(convolution, active);
  }
  const at::Tensor y = nn::convolve_normed(conv1_, bn2_, active).relu_();
  return nn::convolve(conv2_, y).add_(shortcut);
}

REFINE_DEFINITION void PreActBlock::fold() {
  nn::fold_pair(*this, "conv1", conv1_, "bn2", bn2_);
}

REFINE_DEFINITION PreActModule::PreActModule(const PreActPlan& plan) : plan_(plan) {
  reset();
}

REFINE_DEFINITION void PreActModule::reset() {
  conv1_ = register_module("conv1", bare_convolution(plan_.channels, plan_.width, 3, 1));
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

REFINE_DEFINITION at::Tensor PreActModule::forward(const at::Tensor& images) {
  at::Tensor x = nn::convolve(conv1_, images);
  for (auto& layer : layers_) x = layer->forward(x);
  if (!last_norm_.is_empty()) x = last_norm_->forward(x).relu_();
  return linear_->forward(x.mean({2, 3}));
}

}  // namespace refine::backbones::detail
