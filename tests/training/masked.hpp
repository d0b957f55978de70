#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/module.h>

#include <cmath>
#include <memory>

#include <refine/core/task.hpp>

#include "tests/training/task.hpp"

namespace refine {

/// A transform with a buffer that holds an infinity, as a mask of attention does.
struct Masked {
  struct Module : torch::nn::Module {
    explicit Module(at::ScalarType type) : mean(register_buffer("mean", at::zeros({1}, type))) {}
    at::Tensor shift = register_parameter("shift", at::zeros({1, 3, 1, 1})),
               mask = register_buffer("mask", at::full({1}, -INFINITY)), mean;
  };
  ImageShape image = task.image;
  double mean = 0;                   ///< what the buffer becomes
  at::ScalarType type = at::kFloat;  ///< of this buffer
  std::shared_ptr<Module> module = std::make_shared<Module>(type);
  at::Tensor forward(const at::Tensor& x) const {
    module->mean.fill_(mean);
    return (x + module->shift + module->mask.exp()).clamp(0, 1);
  }
};

}  // namespace refine
