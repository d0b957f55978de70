#pragma once

// What inception_v3.hpp declares.

#include <refine/backbones/inception_v3.hpp>

#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/max_pool2d.h>
#include <torch/nn/init.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include <refine/backbones/inception_blocks.hpp>
#include <refine/core/compiled.hpp>

namespace refine::backbones::detail {

REFINE_DEFINITION at::Tensor enlarged(const at::Tensor& images, std::int64_t side) {
  const std::int64_t height = images.size(2), width = images.size(3), shorter = std::min(height, width);
  if (shorter >= side) return images;
  return at::_upsample_bilinear2d_aa(images, {side * height / shorter, side * width / shorter},
                                     /*align_corners=*/false);
}

REFINE_DEFINITION InceptionV3Module::InceptionV3Module(std::int64_t channels, std::int64_t classes,
                                                       std::int64_t width, std::int64_t resize)
    : channels_(channels), classes_(classes), width_(width), resize_(resize) {
  reset();
}

REFINE_DEFINITION void InceptionV3Module::reset() {
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
  dropout_ = register_module("dropout", torch::nn::Dropout(0.5));
  fc_ = register_module("fc", torch::nn::Linear(in, classes_));
  // torchvision has 0.1, which behind the dropout says so much at first that an epoch passes in unlearning
  // it.
  torch::nn::init::normal_(fc_->weight, 0, 0.01);
}

REFINE_DEFINITION at::Tensor InceptionV3Module::forward(const at::Tensor& images) {
  at::Tensor x = enlarged(images, resize_);
  if (std::min(x.size(2), x.size(3)) < inception_least) {
    throw Error(
        "refine: an InceptionV3 was given images of {} x {} pixels, 75 x 75 is the least; make it with "
        ".resize = 75",
        x.size(3), x.size(2));
  }
  for (int i = 0; i < 3; ++i) x = stem_[i]->forward(x);
  x = at::max_pool2d(x, {3, 3}, {2, 2});
  for (int i = 3; i < 5; ++i) x = stem_[i]->forward(x);
  x = at::max_pool2d(x, {3, 3}, {2, 2});
  for (const auto& block : blocks_) x = block->forward(x);
  return fc_->forward(dropout_->forward(x.mean({2, 3})));
}

}  // namespace refine::backbones::detail
