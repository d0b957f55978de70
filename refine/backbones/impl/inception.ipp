#pragma once

#include <refine/backbones/detail/inception_blocks.hpp>
#include <refine/backbones/inception.hpp>

#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/max_pool2d.h>
#include <torch/nn/init.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/nn/conv.hpp>

namespace refine::backbones::detail {

REFINE_INLINE at::Tensor enlarge(const at::Tensor& images, std::int64_t side) {
  const std::int64_t height = images.size(2), width = images.size(3), shorter = std::min(height, width);
  if (shorter >= side) return images;
  return nn::resize_antialiased(images, side * height / shorter, side * width / shorter);
}

REFINE_INLINE InceptionV3Module::InceptionV3Module(std::int64_t channels, std::int64_t classes,
                                                   std::int64_t width, std::int64_t resize)
    : channels_(channels), classes_(classes), width_(width), resize_(resize) {
  reset();
}

REFINE_INLINE void InceptionV3Module::reset() {
  stem_.clear();
  std::int64_t in = channels_;
  for (const InceptionStep& step :
       {InceptionStep{"Conv2d_1a_3x3", 32, {3, 3}, 2, false},
        InceptionStep{"Conv2d_2a_3x3", 32, {3, 3}, 1, false}, InceptionStep{"Conv2d_2b_3x3", 64, {3, 3}},
        InceptionStep{"Conv2d_3b_1x1", 80, {1, 1}}, InceptionStep{"Conv2d_4a_3x3", 192, {3, 3}, 1, false}}) {
    stem_.push_back(register_module(step.name, std::make_shared<InceptionConvolution>(in, step, width_)));
    in = stem_.back()->out();
  }
  blocks_.clear();
  const auto add = [&](const char* name, InceptionPlan plan) {
    blocks_.push_back(register_module(name, std::make_shared<InceptionBlock>(in, std::move(plan), width_)));
    in = blocks_.back()->out();
  };
  add("Mixed_5b", inception_a(32));
  add("Mixed_5c", inception_a(64));
  add("Mixed_5d", inception_a(64));
  add("Mixed_6a", inception_b());
  add("Mixed_6b", inception_c(128));
  add("Mixed_6c", inception_c(160));
  add("Mixed_6d", inception_c(160));
  add("Mixed_6e", inception_c(192));
  add("Mixed_7a", inception_d());
  add("Mixed_7b", inception_e());
  add("Mixed_7c", inception_e());
  dropout_ = register_module("dropout", nn::Dropout(0.5));
  fc_ = register_module("fc", torch::nn::Linear(in, classes_));
  // torchvision's deviation is 0.1. After the dropout, that makes the first logits so large that
  // the first epoch is spent on reducing them.
  torch::nn::init::normal_(fc_->weight, 0, 0.01);
}

REFINE_INLINE at::Tensor InceptionV3Module::features(const at::Tensor& images) {
  at::Tensor x = enlarge(images, resize_);
  if (std::min(x.size(2), x.size(3)) < inception_min_side) {
    throw Error(
        "InceptionV3: images are too small (got {} x {} pixels, expected at least 75 x 75); set .resize = 75",
        x.size(3), x.size(2));
  }
  for (int i = 0; i < 3; ++i) x = stem_[i]->forward(x);
  x = at::max_pool2d(x, {3, 3}, {2, 2});
  for (int i = 3; i < 5; ++i) x = stem_[i]->forward(x);
  x = at::max_pool2d(x, {3, 3}, {2, 2});
  // A stage is the blocks of one size: Mixed_5b to 5d, 6a to 6e, 7a to 7c.
  constexpr std::array<std::size_t, 4> stage_begins = {0, 3, 8, 11};
  for (int stage = 0; stage < stages(); ++stage) {
    for (std::size_t i = stage_begins[stage]; i < stage_begins[stage + 1]; ++i) x = blocks_[i]->forward(x);
    x = after_stage(stage, x);
  }
  return x.mean({2, 3});
}

REFINE_INLINE at::Tensor InceptionV3Module::forward(const at::Tensor& images) {
  return fc_->forward(dropout_->forward(features(images)));
}

REFINE_INLINE InceptionConvolution::InceptionConvolution(std::int64_t in, const InceptionStep& step,
                                                         std::int64_t width)
    : in_(in), step_(step), width_(width) {
  reset();
}

REFINE_INLINE void InceptionConvolution::reset() {
  const auto [height, width] = step_.kernel;
  const int padded = step_.padded ? 1 : 0;
  conv_ =
      register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(in_, out(), {height, width})
                                                    .stride(step_.stride)
                                                    .padding({padded * (height / 2), padded * (width / 2)})
                                                    .bias(false)));
  bn_ = register_module("bn", torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(out()).eps(1e-3)));
  // torchvision truncates this normal at ±2, which is twenty deviations away.
  torch::nn::init::normal_(conv_->weight, 0, 0.1);
}

REFINE_INLINE void InceptionConvolution::fold() {
  nn::fold_conv_bn(*this, "conv", conv_, "bn", bn_);
}

REFINE_INLINE InceptionPlan inception_a(int pooled) {
  return {{.chain = {{"branch1x1", 64, {1, 1}}}},
          {.chain = {{"branch5x5_1", 48, {1, 1}}, {"branch5x5_2", 64, {5, 5}}}},
          {.chain = {{"branch3x3dbl_1", 64, {1, 1}},
                     {"branch3x3dbl_2", 96, {3, 3}},
                     {"branch3x3dbl_3", 96, {3, 3}}}},
          {.chain = {{"branch_pool", pooled, {1, 1}}}, .pool = InceptionPool::average}};
}

REFINE_INLINE InceptionPlan inception_b() {
  return {{.chain = {{"branch3x3", 384, {3, 3}, 2, false}}},
          {.chain = {{"branch3x3dbl_1", 64, {1, 1}},
                     {"branch3x3dbl_2", 96, {3, 3}},
                     {"branch3x3dbl_3", 96, {3, 3}, 2, false}}},
          {.chain = {}, .pool = InceptionPool::maximum}};
}

REFINE_INLINE InceptionPlan inception_c(int inner) {
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

REFINE_INLINE InceptionPlan inception_d() {
  return {{.chain = {{"branch3x3_1", 192, {1, 1}}, {"branch3x3_2", 320, {3, 3}, 2, false}}},
          {.chain = {{"branch7x7x3_1", 192, {1, 1}},
                     {"branch7x7x3_2", 192, {1, 7}},
                     {"branch7x7x3_3", 192, {7, 1}},
                     {"branch7x7x3_4", 192, {3, 3}, 2, false}}},
          {.chain = {}, .pool = InceptionPool::maximum}};
}

REFINE_INLINE InceptionPlan inception_e() {
  return {{.chain = {{"branch1x1", 320, {1, 1}}}},
          {.chain = {{"branch3x3_1", 384, {1, 1}}},
           .fork = {{"branch3x3_2a", 384, {1, 3}}, {"branch3x3_2b", 384, {3, 1}}}},
          {.chain = {{"branch3x3dbl_1", 448, {1, 1}}, {"branch3x3dbl_2", 384, {3, 3}}},
           .fork = {{"branch3x3dbl_3a", 384, {1, 3}}, {"branch3x3dbl_3b", 384, {3, 1}}}},
          {.chain = {{"branch_pool", 192, {1, 1}}}, .pool = InceptionPool::average}};
}

REFINE_INLINE InceptionBlock::InceptionBlock(std::int64_t in, InceptionPlan plan, std::int64_t width)
    : in_(in), plan_(std::move(plan)), width_(width) {
  reset();
}

REFINE_INLINE void InceptionBlock::reset() {
  paths_.clear();
  out_ = 0;
  for (const auto& branch : plan_) {
    Path& path = paths_.emplace_back();
    path.pool = branch.pool;
    std::int64_t channels = in_;
    for (const auto& step : branch.chain) {
      path.chain.push_back(add_convolution(channels, step));
      channels = path.chain.back()->out();
    }
    for (const auto& step : branch.fork) {
      path.fork.push_back(add_convolution(channels, step));
      out_ += path.fork.back()->out();
    }
    if (branch.fork.empty()) out_ += channels;
  }
}

REFINE_INLINE at::Tensor InceptionBlock::forward(const at::Tensor& x) {
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

REFINE_INLINE std::shared_ptr<InceptionConvolution> InceptionBlock::add_convolution(
    std::int64_t in, const InceptionStep& step) {
  return register_module(step.name, std::make_shared<InceptionConvolution>(in, step, width_));
}

}  // namespace refine::backbones::detail
