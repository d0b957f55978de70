#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>

#include <refine/core/image_shape.hpp>

namespace refine::transforms {

/// The null policy: images stay as they are. An ablation, no defense.
template <ImageShape kImage = ImageShape{}>
struct None {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("None");

  at::Tensor forward(const at::Tensor& images) const { return images; }
};

}  // namespace refine::transforms
