#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <map>
#include <string>

#include <refine/nn/module.hpp>

#include "tests/support/error_of.hpp"

namespace refine::nn {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

/// Returns a state dict as PyTorch before 0.4.1 wrote it.
std::map<std::string, at::Tensor> old_state(const std::string& prefix = "") {
  return {{prefix + "0.weight", at::full({2, 3}, 5)},    {prefix + "0.bias", at::full({2}, 6)},
          {prefix + "1.weight", at::full({2}, 7)},       {prefix + "1.bias", at::full({2}, 8)},
          {prefix + "1.running_mean", at::full({2}, 9)}, {prefix + "1.running_var", at::full({2}, 10)}};
}

torch::nn::Sequential linear_with_norm() {
  torch::nn::Sequential module(torch::nn::Linear(3, 2), torch::nn::BatchNorm1d(2));
  module->forward(at::ones({4, 3}));  // the count is 1
  return module;
}

TEST(StateDict, MissingBatchCounts_AreSetToZero) {
  for (const std::string prefix : {"", "network."}) {
    auto module = linear_with_norm();
    load_state_dict(*module, old_state(prefix), "old.pth", prefix);
    const auto state = state_dict(*module, prefix);
    EXPECT_EQ(state.at(prefix + "1.num_batches_tracked").item<std::int64_t>(), 0);
    for (const auto& [name, tensor] : old_state(prefix)) {
      EXPECT_TRUE(at::equal(state.at(name), tensor.to(at::kFloat))) << name;
    }
  }
  // The module itself is a BatchNorm.
  torch::nn::BatchNorm1d norm(2);
  norm->forward(at::ones({4, 2}));
  auto state = state_dict(*norm);
  ASSERT_EQ(state.erase("num_batches_tracked"), 1);
  load_state_dict(*norm, state, "old.pth");
  EXPECT_EQ(norm->num_batches_tracked.item<std::int64_t>(), 0);
}

TEST(StateDict, BatchCounts_AreLoaded) {
  auto module = linear_with_norm();
  auto state = old_state();
  state["1.num_batches_tracked"] = at::full({}, 12, at::kLong);
  load_state_dict(*module, state, "new.pth");
  EXPECT_EQ(state_dict(*module).at("1.num_batches_tracked").item<std::int64_t>(), 12);
}

TEST(StateDict, OtherMissingTensor_ThrowsAndChangesNothing) {
  auto module = linear_with_norm();
  for (const auto& [name, tensor] : old_state()) {
    auto state = old_state();
    state.erase(name);
    expect_words(error_of([&] { load_state_dict(*module, state, "old.pth"); }),
                 {"old.pth", "'" + name + "' is missing"});
  }
  EXPECT_EQ(state_dict(*module).at("1.num_batches_tracked").item<std::int64_t>(), 1);
}

}  // namespace
}  // namespace refine::nn
