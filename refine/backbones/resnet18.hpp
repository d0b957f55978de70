#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/relu.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <refine/core/agreement.hpp>
#include <refine/core/error.hpp>
#include <refine/core/seed.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/foldable.hpp>
#include <refine/nn/seeded.hpp>

namespace refine::backbones {

namespace detail {

inline torch::nn::Conv2d plain_convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                           std::int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

/// Two 3×3 convolutions around a shortcut (He et al., 2016, `he2016resnet`).
class BasicBlock : public torch::nn::Cloneable<BasicBlock>, public nn::Foldable {
 public:
  BasicBlock(std::int64_t in, std::int64_t out, std::int64_t stride) : in_(in), out_(out), stride_(stride) {
    reset();
  }

  void reset() override {
    conv1_ = register_module("conv1", plain_convolution(in_, out_, 3, stride_));
    bn1_ = register_module("bn1", torch::nn::BatchNorm2d(out_));
    conv2_ = register_module("conv2", plain_convolution(out_, out_, 3, 1));
    bn2_ = register_module("bn2", torch::nn::BatchNorm2d(out_));
    shortcut_ = torch::nn::Sequential();
    if (stride_ != 1 || in_ != out_) {
      shortcut_->push_back(plain_convolution(in_, out_, 1, stride_));
      shortcut_->push_back(torch::nn::BatchNorm2d(out_));
    }
    register_module("shortcut", shortcut_);
  }

  at::Tensor forward(const at::Tensor& x) {
    at::Tensor y = at::relu(nn::normed(bn1_, conv1_->forward(x)));
    y = nn::normed(bn2_, conv2_->forward(y));
    return at::relu(y + (shortcut_->is_empty() ? x : shortcut_->forward(x)));
  }

  void fold() override {
    nn::fold_pair(*this, "conv1", conv1_, "bn1", bn1_);
    nn::fold_pair(*this, "conv2", conv2_, "bn2", bn2_);
    if (!shortcut_->is_empty()) {
      const torch::nn::Conv2d convolution(
          std::dynamic_pointer_cast<torch::nn::Conv2dImpl>(shortcut_->ptr(0)));
      const torch::nn::BatchNorm2d norm(
          std::dynamic_pointer_cast<torch::nn::BatchNorm2dImpl>(shortcut_->ptr(1)));
      shortcut_ = replace_module("shortcut", torch::nn::Sequential(nn::folded(convolution, norm)));
    }
  }

 private:
  std::int64_t in_, out_, stride_;
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr}, bn2_{nullptr};
  torch::nn::Sequential shortcut_{nullptr};
};

class ResNet18Module : public torch::nn::Cloneable<ResNet18Module>, public nn::Foldable {
 public:
  ResNet18Module(std::int64_t channels, std::int64_t classes, std::int64_t width)
      : channels_(channels), classes_(classes), width_(width) {
    reset();
  }

  void reset() override {
    conv1_ = register_module("conv1", plain_convolution(channels_, width_, 3, 1));
    bn1_ = register_module("bn1", torch::nn::BatchNorm2d(width_));
    layers_.clear();
    std::int64_t in = width_;
    for (int level = 0; level < 4; ++level) {
      const std::int64_t out = width_ << level;
      torch::nn::Sequential layer;
      layer->push_back(std::make_shared<BasicBlock>(in, out, level == 0 ? 1 : 2));
      layer->push_back(std::make_shared<BasicBlock>(out, out, 1));
      layers_.push_back(register_module("layer" + std::to_string(level + 1), layer));
      in = out;
    }
    linear_ = register_module("linear", torch::nn::Linear(in, classes_));
  }

  at::Tensor forward(const at::Tensor& images) {
    at::Tensor x = at::relu(nn::normed(bn1_, conv1_->forward(images)));
    for (auto& layer : layers_) x = layer->forward(x);
    return linear_->forward(x.mean({2, 3}));
  }

  void fold() override { nn::fold_pair(*this, "conv1", conv1_, "bn1", bn1_); }

 private:
  std::int64_t channels_, classes_, width_;
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr};
  std::vector<torch::nn::Sequential> layers_;
  torch::nn::Linear linear_{nullptr};
};

}  // namespace detail

/// ResNet-18 in its form for small images: a 3×3 stem of stride 1 and no max pooling (He et al., 2016,
/// `he2016resnet`). Parameter names are the reference's: `conv1.weight`, `layer1.0.bn1.weight`, …,
/// `layer2.0.shortcut.0.weight`, `linear.weight`. Images C×H×W with H and W of 8 pixels or more.
template <Task kTask = dynamic_task>
struct ResNet18 {
  static constexpr Task static_task = kTask;

  Task task = kTask;
  int width = 64;  ///< channels of the first stage; the others have 2, 4 and 8 times as many
  std::uint64_t seed = default_seed;  ///< of the initial weights
  std::shared_ptr<detail::ResNet18Module> module = make(task, width, seed);

  /// Float N×C×H×W → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  static std::shared_ptr<detail::ResNet18Module> make(const Task& task, int width, std::uint64_t seed) {
    require_agreement(unfit(merged(kTask, task)));
    if (!compatible(kTask, task)) {
      Message why;
      require_agreement(why << "refine: ResNet18<" << kTask.image << ", " << kTask.classes
                            << "> was told another task: " << task.image << ", " << task.classes
                            << " classes");
    }
    if (width < 1) throw Error("refine: a ResNet18 of width {} was asked for; width is at least 1", width);
    return nn::seeded(seed, [&] {
      return std::make_shared<detail::ResNet18Module>(task.image.channels, task.classes, width);
    });
  }

  static constexpr Message unfit(const Task& task) {
    Message why;
    if (task.image.channels == dynamic || task.classes == dynamic) {
      why << "refine: a ResNet18 needs to know its channels and classes; say .task = Task{ImageShape{3, 32, "
             "32}, 10}";
    } else if (task.image.channels < 1 || task.classes < 2) {
      why << "refine: a ResNet18 was asked for " << task.image << " images and " << task.classes
          << " classes; it needs 1 channel and 2 classes at least";
    } else if ((task.image.height != dynamic && task.image.height < 8) ||
               (task.image.width != dynamic && task.image.width < 8)) {
      why << "refine: a ResNet18 halves its images three times, " << task.image
          << " is too small; 8x8 is the least";
    }
    return why;
  }
};

}  // namespace refine::backbones
