#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/max_pool2d.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/init.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <refine/nn/convolve_normed.hpp>
#include <refine/nn/foldable.hpp>

namespace refine::backbones::detail {

/// One convolution of an Inception-v3, as published: its name, its channels at width 32, its kernel.
struct InceptionStep {
  const char* name;
  int out;
  std::array<int, 2> kernel;  ///< height, width
  int stride = 1;
  bool padded = true;  ///< so that stride 1 keeps the size
};

/// Channels of a network whose first convolution has `width` instead of 32. Published numbers are multiples
/// of 16, so an even width keeps every one whole.
inline std::int64_t scaled(std::int64_t published, std::int64_t width) {
  return published * width / 32;
}

/// Convolution, BatchNorm, ReLU.
class InceptionConvolution : public torch::nn::Cloneable<InceptionConvolution>, public nn::Foldable {
 public:
  InceptionConvolution(std::int64_t in, const InceptionStep& step, std::int64_t width)
      : in_(in), step_(step), width_(width) {
    reset();
  }

  void reset() override {
    const auto [high, wide] = step_.kernel;
    const int on = step_.padded ? 1 : 0;
    conv_ = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(in_, out(), {high, wide})
                                                          .stride(step_.stride)
                                                          .padding({on * (high / 2), on * (wide / 2)})
                                                          .bias(false)));
    bn_ = register_module("bn", torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(out()).eps(1e-3)));
    // torchvision cuts this normal off at ±2, which is twenty deviations away.
    torch::nn::init::normal_(conv_->weight, 0, 0.1);
  }

  at::Tensor forward(const at::Tensor& x) { return nn::convolve_normed(conv_, bn_, x).relu_(); }

  void fold() override { nn::fold_pair(*this, "conv", conv_, "bn", bn_); }

  std::int64_t out() const { return scaled(step_.out, width_); }

 private:
  std::int64_t in_;
  InceptionStep step_;
  std::int64_t width_;
  torch::nn::Conv2d conv_{nullptr};
  torch::nn::BatchNorm2d bn_{nullptr};
};

/// What happens to a block's input first.
enum class InceptionPool {
  none,
  average,  ///< 3×3 of stride 1
  maximum,  ///< 3×3 of stride 2
};

/// One of the paths through a block: pooling, convolutions one after another, then, where there is a fork,
/// convolutions beside each other.
struct InceptionBranch {
  std::vector<InceptionStep> chain, fork = {};
  InceptionPool pool = InceptionPool::none;
};

/// The paths of one block, in the order in which their channels are put together.
using InceptionPlan = std::vector<InceptionBranch>;

inline InceptionPlan inception_a(int pooled) {
  return {{.chain = {{"branch1x1", 64, {1, 1}}}},
          {.chain = {{"branch5x5_1", 48, {1, 1}}, {"branch5x5_2", 64, {5, 5}}}},
          {.chain = {{"branch3x3dbl_1", 64, {1, 1}},
                     {"branch3x3dbl_2", 96, {3, 3}},
                     {"branch3x3dbl_3", 96, {3, 3}}}},
          {.chain = {{"branch_pool", pooled, {1, 1}}}, .pool = InceptionPool::average}};
}

/// Halves the sides.
inline InceptionPlan inception_b() {
  return {{.chain = {{"branch3x3", 384, {3, 3}, 2, false}}},
          {.chain = {{"branch3x3dbl_1", 64, {1, 1}},
                     {"branch3x3dbl_2", 96, {3, 3}},
                     {"branch3x3dbl_3", 96, {3, 3}, 2, false}}},
          {.chain = {}, .pool = InceptionPool::maximum}};
}

inline InceptionPlan inception_c(int inner) {
  return {{.chain = {{"branch1x1", 192, {1, 1}}}},
          {.chain = {{"branch7x7_1", inner, {1, 1}},
                     {"branch7x7_2", inner, {1, 7}},
                     {"branch7x7_3", 192, {7, 1}}}},
          {.chain = {{"branch7x7dbl_1", inner, {1, 1}},
                     {"branch7x7dbl_2", inner, {7, 1}},
                     {"branch7x7dbl_3", inner, {1, 7}},
                     {"branch7x7dbl_4", inner, {7, 1}},
                     {"branch7x7dbl_5", 192, {1, 7}}}},
          {.chain = {{"branch_pool", 192, {1, 1}}}, .pool = InceptionPool::average}};
}

/// Halves the sides.
inline InceptionPlan inception_d() {
  return {{.chain = {{"branch3x3_1", 192, {1, 1}}, {"branch3x3_2", 320, {3, 3}, 2, false}}},
          {.chain = {{"branch7x7x3_1", 192, {1, 1}},
                     {"branch7x7x3_2", 192, {1, 7}},
                     {"branch7x7x3_3", 192, {7, 1}},
                     {"branch7x7x3_4", 192, {3, 3}, 2, false}}},
          {.chain = {}, .pool = InceptionPool::maximum}};
}

inline InceptionPlan inception_e() {
  return {{.chain = {{"branch1x1", 320, {1, 1}}}},
          {.chain = {{"branch3x3_1", 384, {1, 1}}},
           .fork = {{"branch3x3_2a", 384, {1, 3}}, {"branch3x3_2b", 384, {3, 1}}}},
          {.chain = {{"branch3x3dbl_1", 448, {1, 1}}, {"branch3x3dbl_2", 384, {3, 3}}},
           .fork = {{"branch3x3dbl_3a", 384, {1, 3}}, {"branch3x3dbl_3b", 384, {3, 1}}}},
          {.chain = {{"branch_pool", 192, {1, 1}}}, .pool = InceptionPool::average}};
}

/// The paths of a plan beside each other, their channels put together.
class InceptionBlock : public torch::nn::Cloneable<InceptionBlock> {
 public:
  InceptionBlock(std::int64_t in, InceptionPlan plan, std::int64_t width)
      : in_(in), plan_(std::move(plan)), width_(width) {
    reset();
  }

  void reset() override {
    paths_.clear();
    out_ = 0;
    for (const auto& branch : plan_) {
      Path& path = paths_.emplace_back();
      path.pool = branch.pool;
      std::int64_t channels = in_;
      for (const auto& step : branch.chain) {
        path.chain.push_back(added(channels, step));
        channels = path.chain.back()->out();
      }
      for (const auto& step : branch.fork) {
        path.fork.push_back(added(channels, step));
        out_ += path.fork.back()->out();
      }
      if (branch.fork.empty()) out_ += channels;
    }
  }

  at::Tensor forward(const at::Tensor& x) {
    std::vector<at::Tensor> results;
    for (const auto& path : paths_) {
      at::Tensor y = x;
      if (path.pool == InceptionPool::average) y = at::avg_pool2d(y, {3, 3}, {1, 1}, {1, 1});
      if (path.pool == InceptionPool::maximum) y = at::max_pool2d(y, {3, 3}, {2, 2});
      for (const auto& step : path.chain) y = step->forward(y);
      for (const auto& step : path.fork) results.push_back(step->forward(y));
      if (path.fork.empty()) results.push_back(y);
    }
    return at::cat(results, 1);
  }

  std::int64_t out() const { return out_; }

 private:
  struct Path {
    InceptionPool pool = InceptionPool::none;
    std::vector<std::shared_ptr<InceptionConvolution>> chain, fork;
  };

  std::shared_ptr<InceptionConvolution> added(std::int64_t in, const InceptionStep& step) {
    return register_module(step.name, std::make_shared<InceptionConvolution>(in, step, width_));
  }

  std::int64_t in_;
  InceptionPlan plan_;
  std::int64_t width_, out_ = 0;
  std::vector<Path> paths_;
};

}  // namespace refine::backbones::detail
