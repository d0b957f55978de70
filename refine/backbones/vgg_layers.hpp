#pragma once

#include <ATen/TensorOperators.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>
#include <vector>

#include <refine/backbones/fan_out.hpp>
#include <refine/backbones/form.hpp>
#include <refine/core/compiled.hpp>
#include <refine/nn/convolve_normed.hpp>
#include <refine/nn/foldable.hpp>

namespace refine::backbones::detail {

/// Thirteen 3×3 convolutions, in five groups with max pooling behind each. Children are numbered as in
/// PyTorch's `Sequential` of the same layers, where ReLUs and poolings count too.
class VggFeatures : public torch::nn::Cloneable<VggFeatures>, public nn::Foldable {
 public:
  VggFeatures(std::int64_t channels, std::int64_t width, bool batch_norm);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(at::Tensor x);

  REFINE_DEFINITION void fold() override;

 private:
  struct Group {
    std::int64_t times;  ///< as wide as the first
    int count;
  };
  struct Layer {
    int number;
    bool last_of_group;
    torch::nn::Conv2d convolution{nullptr};
    torch::nn::BatchNorm2d norm{nullptr};
  };

  std::int64_t channels_, width_;
  bool batch_norm_;
  std::vector<Layer> layers_;
};

/// Three linear layers with ReLU and dropout between, which children `0`, `3` and `6` are.
class VggClassifier : public torch::nn::Cloneable<VggClassifier> {
 public:
  VggClassifier(std::int64_t in, std::int64_t hidden, std::int64_t classes);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& x);

 private:
  std::int64_t in_, hidden_, classes_;
  torch::nn::Linear first_{nullptr}, second_{nullptr}, third_{nullptr};
};

/// What a VGG-16 is made of.
struct VggPlan {
  std::int64_t channels, classes, width;
  bool batch_norm;
  Form form;
};

class VggModule : public torch::nn::Cloneable<VggModule> {
 public:
  explicit VggModule(const VggPlan& plan);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& images);

 private:
  VggPlan plan_;
  std::shared_ptr<VggFeatures> features_;
  std::shared_ptr<VggClassifier> classifier_;
  torch::nn::Linear linear_{nullptr};
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED)
#include <refine/backbones/vgg_layers_definitions.hpp>
#endif
