#pragma once

#include <refine/backbones/detail/vgg_layers.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/max_pool2d.h>
#include <c10/core/GradMode.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/config.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/fold.hpp>
#include <refine/nn/shared_batch.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones::detail {

/// 3×3 convolutions in five groups, each followed by max pooling. Children have the numbers that
/// they have in PyTorch's `Sequential` of the same layers, where ReLUs and poolings count too.
class VggFeatures : public torch::nn::Cloneable<VggFeatures>, public nn::Foldable, public Staged {
 public:
  explicit VggFeatures(const VggPlan& plan);

  REFINE_INLINE void reset() override;

  at::Tensor forward(at::Tensor x);

  REFINE_INLINE void fold() override;

  int stages() const override { return static_cast<int>(plan_.groups.size()); }

 private:
  struct Layer {
    int number;
    bool last_of_group;
    torch::nn::Conv2d convolution{nullptr};
    torch::nn::BatchNorm2d norm{nullptr};
  };

  VggPlan plan_;
  std::vector<Layer> layers_;
};

/// Three linear layers, named `0`, `3` and `6`, with ReLU and dropout between them.
class VggClassifier : public torch::nn::Cloneable<VggClassifier> {
 public:
  VggClassifier(std::int64_t in, std::int64_t hidden, std::int64_t classes);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x);

 private:
  std::int64_t in_, hidden_, classes_;
  torch::nn::Linear first_{nullptr}, second_{nullptr}, third_{nullptr};
};

REFINE_INLINE VggFeatures::VggFeatures(const VggPlan& plan) : plan_(plan) {
  reset();
}

REFINE_INLINE void VggFeatures::reset() {
  layers_.clear();
  std::int64_t in = plan_.channels;
  int number = 0;
  for (std::size_t group = 0; group < plan_.groups.size(); ++group) {
    const std::int64_t out = plan_.width << std::min<std::size_t>(group, 3);
    for (int i = 0; i < plan_.groups[group]; ++i) {
      Layer layer{.number = number, .last_of_group = i + 1 == plan_.groups[group]};
      layer.convolution =
          register_module(std::to_string(number++),
                          torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).padding(1).bias(true)));
      if (plan_.batch_norm) {
        layer.norm = register_module(std::to_string(number++), torch::nn::BatchNorm2d(out));
      }
      ++number;  // the ReLU
      layers_.push_back(std::move(layer));
      in = out;
    }
    ++number;  // the max pooling
  }
}

REFINE_INLINE at::Tensor VggFeatures::forward(at::Tensor x) {
  int stage = 0;
  for (auto& layer : layers_) {
    x = nn::conv_bn(layer.convolution, layer.norm, x).relu_();
    if (layer.last_of_group) x = at::max_pool2d(after_stage(stage++, x), {2, 2});
  }
  return x;
}

REFINE_INLINE void VggFeatures::fold() {
  for (auto& [number, last_of_group, convolution, norm] : layers_) {
    if (norm.is_empty()) continue;
    nn::fold_conv_bn(*this, std::to_string(number), convolution, std::to_string(number + 1), norm);
  }
}

REFINE_INLINE VggClassifier::VggClassifier(std::int64_t in, std::int64_t hidden, std::int64_t classes)
    : in_(in), hidden_(hidden), classes_(classes) {
  reset();
}

REFINE_INLINE void VggClassifier::reset() {
  first_ = register_module("0", torch::nn::Linear(in_, hidden_));
  second_ = register_module("3", torch::nn::Linear(hidden_, hidden_));
  third_ = register_module("6", torch::nn::Linear(hidden_, classes_));
}

REFINE_INLINE at::Tensor VggClassifier::forward(const at::Tensor& x) {
  const auto drop_out = [this](const at::Tensor& y) { return is_training() ? nn::dropout(y, 0.5) : y; };
  const at::Tensor y = drop_out(first_->forward(x).relu_());
  return third_->forward(drop_out(second_->forward(y).relu_()));
}

REFINE_INLINE VggModule::VggModule(const VggPlan& plan) : plan_(plan) {
  reset();
}

REFINE_INLINE void VggModule::reset() {
  const std::int64_t out = 8 * plan_.width;
  features_ = register_module("features", std::make_shared<VggFeatures>(plan_));
  if (plan_.variant == Variant::cifar) {
    linear_ = register_module("classifier", torch::nn::Linear(out, plan_.classes));
  } else {
    classifier_ = register_module(
        "classifier", std::make_shared<VggClassifier>(out * 7 * 7, 64 * plan_.width, plan_.classes));
  }
  kaiming_normal_fan_out_(*this);
  const c10::NoGradGuard no_grad;
  for (const auto& part : modules(/*include_self=*/false)) {
    if (auto* linear = dynamic_cast<torch::nn::LinearImpl*>(part.get())) {
      linear->weight.normal_(0, 0.01);
      linear->bias.zero_();
    }
  }
}

REFINE_INLINE at::Tensor VggModule::features(const at::Tensor& images) {
  const at::Tensor x = features_->forward(images);
  return plan_.variant == Variant::cifar ? x.mean({2, 3}) : at::adaptive_avg_pool2d(x, {7, 7}).flatten(1);
}

REFINE_INLINE at::Tensor VggModule::forward(const at::Tensor& images) {
  const at::Tensor x = features(images);
  return plan_.variant == Variant::cifar ? linear_->forward(x) : classifier_->forward(x);
}

REFINE_INLINE std::shared_ptr<VggModule> make_vgg(std::string_view network, const Task& fixed,
                                                  const Task& specified, const std::array<int, 5>& groups,
                                                  int width, bool batch_norm, std::optional<Variant> variant,
                                                  std::uint64_t seed) {
  require_buildable(network, fixed, specified, /*min_side=*/32, width);
  const Task task = merged(fixed, specified);
  return nn::with_torch_seed(seed, [&] {
    return std::make_shared<VggModule>(VggPlan{.channels = task.image.channels,
                                               .classes = task.classes,
                                               .width = width,
                                               .groups = groups,
                                               .batch_norm = batch_norm,
                                               .variant = variant.value_or(variant_for(task.image))});
  });
}

}  // namespace refine::backbones::detail
