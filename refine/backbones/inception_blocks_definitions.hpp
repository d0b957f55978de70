#pragma once

// What inception_blocks.hpp declares.

#include <refine/backbones/inception_blocks.hpp>

#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/max_pool2d.h>
#include <torch/nn/init.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>

namespace refine::backbones::detail {

REFINE_DEFINITION InceptionConvolution::InceptionConvolution(std::int64_t in, const InceptionStep& step,
                                                             std::int64_t width)
    : in_(in), step_(step), width_(width) {
  reset();
}

REFINE_DEFINITION void InceptionConvolution::reset() {
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

REFINE_DEFINITION void InceptionConvolution::fold() {
  nn::fold_pair(*this, "conv", conv_, "bn", bn_);
}

REFINE_DEFINITION InceptionPlan inception_a(int pooled) {
  return {{.chain = {{"branch1x1", 64, {1, 1}}}},
          {.chain = {{"branch5x5_1", 48, {1, 1}}, {"branch5x5_2", 64, {5, 5}}}},
          {.chain = {{"branch3x3dbl_1", 64, {1, 1}},
                     {"branch3x3dbl_2", 96, {3, 3}},
                     {"branch3x3dbl_3", 96, {3, 3}}}},
          {.chain = {{"branch_pool", pooled, {1, 1}}}, .pool = InceptionPool::average}};
}

REFINE_DEFINITION InceptionPlan inception_b() {
  return {{.chain = {{"branch3x3", 384, {3, 3}, 2, false}}},
          {.chain = {{"branch3x3dbl_1", 64, {1, 1}},
                     {"branch3x3dbl_2", 96, {3, 3}},
                     {"branch3x3dbl_3", 96, {3, 3}, 2, false}}},
          {.chain = {}, .pool = InceptionPool::maximum}};
}

REFINE_DEFINITION InceptionPlan inception_c(int inner) {
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

REFINE_DEFINITION InceptionPlan inception_d() {
  return {{.chain = {{"branch3x3_1", 192, {1, 1}}, {"branch3x3_2", 320, {3, 3}, 2, false}}},
          {.chain = {{"branch7x7x3_1", 192, {1, 1}},
                     {"branch7x7x3_2", 192, {1, 7}},
                     {"branch7x7x3_3", 192, {7, 1}},
                     {"branch7x7x3_4", 192, {3, 3}, 2, false}}},
          {.chain = {}, .pool = InceptionPool::maximum}};
}

REFINE_DEFINITION InceptionPlan inception_e() {
  return {{.chain = {{"branch1x1", 320, {1, 1}}}},
          {.chain = {{"branch3x3_1", 384, {1, 1}}},
           .fork = {{"branch3x3_2a", 384, {1, 3}}, {"branch3x3_2b", 384, {3, 1}}}},
          {.chain = {{"branch3x3dbl_1", 448, {1, 1}}, {"branch3x3dbl_2", 384, {3, 3}}},
           .fork = {{"branch3x3dbl_3a", 384, {1, 3}}, {"branch3x3dbl_3b", 384, {3, 1}}}},
          {.chain = {{"branch_pool", 192, {1, 1}}}, .pool = InceptionPool::average}};
}

REFINE_DEFINITION InceptionBlock::InceptionBlock(std::int64_t in, InceptionPlan plan, std::int64_t width)
    : in_(in), plan_(std::move(plan)), width_(width) {
  reset();
}

REFINE_DEFINITION void InceptionBlock::reset() {
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

REFINE_DEFINITION at::Tensor InceptionBlock::forward(const at::Tensor& x) {
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

REFINE_DEFINITION std::shared_ptr<InceptionConvolution> InceptionBlock::added(std::int64_t in,
                                                                              const InceptionStep& step) {
  return register_module(step.name, std::make_shared<InceptionConvolution>(in, step, width_));
}

}  // namespace refine::backbones::detail
