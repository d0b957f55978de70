#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>
#include <vector>

#include <refine/backbones/buildable.hpp>
#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>
#include <refine/core/seed.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/convolve.hpp>
#include <refine/nn/foldable.hpp>
#include <refine/nn/seeded.hpp>

namespace refine::backbones {

namespace detail {

torch::nn::Conv2d dense_convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                    std::int64_t stride = 1);

/// (BatchNorm, ReLU, convolution) twice, 1×1 to four times the growth, then 3×3 to the growth; what comes in
/// goes out again, with the result behind it.
class DenseLayer : public torch::nn::Cloneable<DenseLayer>, public nn::Foldable {
 public:
  DenseLayer(std::int64_t in, std::int64_t growth);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& x);

  REFINE_DEFINITION void fold() override;

 private:
  std::int64_t in_, growth_;
  torch::nn::BatchNorm2d norm1_{nullptr}, norm2_{nullptr};
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
};

/// Halves channels and sides between two blocks.
class DenseTransition : public torch::nn::Cloneable<DenseTransition> {
 public:
  explicit DenseTransition(std::int64_t in);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& x);

 private:
  std::int64_t in_;
  torch::nn::BatchNorm2d norm_{nullptr};
  torch::nn::Conv2d conv_{nullptr};
};

/// All but the last layer: images N×C×H×W → features N×16·width×H/32×W/32, roughly.
class DenseFeatures : public torch::nn::Cloneable<DenseFeatures>, public nn::Foldable {
 public:
  DenseFeatures(std::int64_t channels, std::int64_t width);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& images);

  REFINE_DEFINITION void fold() override;

 private:
  std::int64_t channels_, width_;
  torch::nn::Conv2d conv0_{nullptr};
  torch::nn::BatchNorm2d norm0_{nullptr}, norm5_{nullptr};
  std::vector<torch::nn::Sequential> blocks_;
  std::vector<std::shared_ptr<DenseTransition>> transitions_;
};

class DenseNet121Module : public torch::nn::Cloneable<DenseNet121Module> {
 public:
  DenseNet121Module(std::int64_t channels, std::int64_t classes, std::int64_t width);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& images);

 private:
  std::int64_t channels_, classes_, width_;
  std::shared_ptr<DenseFeatures> features_;
  torch::nn::Linear classifier_{nullptr};
};

}  // namespace detail

/// DenseNet-121 (Huang et al., 2017, `huang2017densenet`): a 7×7 stem of stride 2 and max pooling for images
/// of every size, then blocks of 6, 12, 24 and 16 layers, each of which adds width/2 channels. Parameter
/// names and initial weights are torchvision's: `features.conv0.weight`,
/// `features.denseblock1.denselayer1.norm1.weight`, …, `classifier.weight`. Images C×H×W with H and W of 29
/// pixels or more.
///
/// `freeze` folds the 59 BatchNorms that follow a convolution. The other 62 stand before one, with a ReLU
/// between; they stay as what they are in evaluation mode, one multiply-add for each channel.
template <Task kTask = dynamic_task>
struct DenseNet121 {
  static constexpr Task static_task = kTask;
  static constexpr bool replayable = true;

  Task task = kTask;
  int width = 64;                     ///< channels of the stem, an even number; each layer adds half as many
  std::uint64_t seed = default_seed;  ///< of the initial weights
  std::shared_ptr<detail::DenseNet121Module> module = make(task, width, seed);

  /// Float N×C×H×W → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  static std::shared_ptr<detail::DenseNet121Module> make(const Task& task, int width, std::uint64_t seed) {
    detail::require_buildable("DenseNet121", kTask, task, /*least_side=*/29, width);
    if (width % 2 != 0) {
      throw Error(
          "refine: a DenseNet121 of width {} was asked for; its layers add half of the width, say an even "
          "one",
          width);
    }
    const Task whole = merged(kTask, task);
    return nn::seeded(seed, [&] {
      return std::make_shared<detail::DenseNet121Module>(whole.image.channels, whole.classes, width);
    });
  }
};

}  // namespace refine::backbones

#if !defined(REFINE_COMPILED)
#include <refine/backbones/densenet121_definitions.hpp>
#endif
