#pragma once

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <c10/core/GradMode.h>
#include <torch/nn/module.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include <refine/backbones/normalized.hpp>
#include <refine/core/task.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/module.hpp>

namespace refine::testing {

/// Returns the tensors that make_reference_values.py wrote, by name.
inline const std::map<std::string, at::Tensor>& reference_values() {
  static const auto read = formats::read_safetensors("tests/fixtures/reference_values.safetensors");
  return read.tensors;
}

/// Returns one of these tensors.
inline const at::Tensor& reference(const std::string& name) {
  return reference_values().at(name);
}

/// Returns the fixtures' images as uint8, N×3×32×32.
inline at::Tensor reference_bytes() {
  return reference("bytes").to(at::kByte);
}

/// Returns the same images in [0, 1].
inline at::Tensor reference_images() {
  return reference("bytes") / 255;
}

/// Normalizes images in [0, 1] as the victims do.
inline at::Tensor normalized(const at::Tensor& images) {
  struct Identity {
    Task task = {ImageShape{3, 32, 32}, 10};
    std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>();
    at::Tensor forward(const at::Tensor& x) const { return x; }
  };
  return backbones::Normalized{Identity{}, normalizations::cifar10}.normalize(images);
}

/// Fails unless the largest difference, divided by `scale`, is at most 1e-5. Records the
/// difference.
inline void expect_parity(const std::string& what, const at::Tensor& ours, const at::Tensor& theirs,
                          double scale = 1) {
  ASSERT_EQ(ours.sizes(), theirs.sizes()) << what;
  const double difference = (ours.detach() - theirs).abs().max().item<double>() / scale;
  EXPECT_LE(difference, 1e-5) << what;
  ::testing::Test::RecordProperty("difference of " + what, std::to_string(difference * 1e6) + "e-6");
}

/// Fills a network with the weights that make_reference_values.py gives to its networks.
///
/// \param module  any network
/// \param last  factor for the weights of the last layer
inline void fill(torch::nn::Module& module, double last) {
  const c10::NoGradGuard no_grad;
  constexpr std::int64_t prime = 2147483647;
  const auto parameters = module.parameters();
  const at::Tensor last_weight = parameters.at(parameters.size() - 2);
  std::int64_t k = 0;
  for (const auto& [name, tensor] : nn::state_dict(module)) {
    const at::Tensor i = at::arange(tensor.numel(), at::kLong) + 7919 * (++k);
    const at::Tensor t = ((i * i).remainder(prime) * i).remainder(prime) * 48271;
    const at::Tensor u =
        (t.remainder(prime).to(at::kDouble) / static_cast<double>(prime)).view(tensor.sizes());
    at::Tensor to = tensor;
    if (name.ends_with("num_batches_tracked")) {
      continue;
    } else if (name.ends_with("running_var")) {
      to.copy_(0.5 + 1.5 * u);
    } else if (name.ends_with("weight") && tensor.dim() == 1) {
      to.copy_(0.5 + u);
    } else if (name.ends_with("weight")) {
      const double fan_in = static_cast<double>(tensor.numel()) / static_cast<double>(tensor.size(0));
      to.copy_((2 * u - 1) * (std::sqrt(6 / fan_in) * (tensor.is_same(last_weight) ? last : 1)));
    } else if (name == "outc.conv.bias") {
      to.copy_(0.2 + 0.6 * u);
    } else {
      to.copy_(0.6 * (u - 0.5));
    }
  }
  module.eval();
}

}  // namespace refine::testing
