#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <refine/training/detail/optimizers.hpp>
#include <refine/training/muon.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

/// A kernel in channels-last layout, a 1×1 kernel in that layout, which can have two different
/// strides, a matrix and a vector.
struct Parameters : torch::nn::Module {
  explicit Parameters(const std::vector<at::Tensor>& values) {
    for (const at::Tensor& value : values) {
      all.push_back(register_parameter("p" + std::to_string(all.size()), value.clone()));
    }
  }
  std::vector<at::Tensor> all;
};

std::vector<at::Tensor> random_values(double scale) {
  const auto last = [](const at::Tensor& t) { return t.contiguous(at::MemoryFormat::ChannelsLast); };
  std::vector<at::Tensor> values = {last(at::randn({6, 4, 3, 3})), last(at::randn({5, 4, 1, 1})),
                                    at::randn({4, 7}), at::randn({9})};
  for (at::Tensor& value : values) value = value * scale;
  return values;
}

/// Steps both optimizers with the same gradients and a falling rate; with SGD, the second parameter
/// has no gradient in the first step.
/// \return the largest difference at the end
double max_difference(const Optimization& optimization, const std::vector<at::Tensor>& start,
                      torch::optim::Optimizer& theirs, std::vector<at::Tensor>& their_parameters) {
  Parameters parts(start);
  detail::Optimizers ours(parts, optimization);
  for (int step = 0; step < 5; ++step) {
    const double factor = 1.0 / (1 + step);
    ours.set_rate_factor(factor);
    for (auto& group : theirs.param_groups()) group.options().set_lr(optimization.lr * factor);
    const auto gradients = random_values(0.5);
    ours.zero_grad();
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      if (step == 0 && i == 1 && optimization.optimizer == OptimizerKind::sgd) {
        their_parameters[i].mutable_grad().reset();
        continue;
      }
      // With the other strides of a 1×1 kernel.
      parts.all[i].mutable_grad() = gradients[i].dim() == 4 ? gradients[i].contiguous() : gradients[i];
      their_parameters[i].mutable_grad() = gradients[i].clone();
    }
    ours.step();
    theirs.step();
  }
  double largest = 0;
  for (std::size_t i = 0; i < start.size(); ++i) {
    EXPECT_GT((parts.all[i] - start[i]).abs().max().item<double>(), 1e-3) << "parameter " << i << " moves";
    largest = std::max(largest, (parts.all[i] - their_parameters[i]).abs().max().item<double>());
  }
  return largest;
}

std::vector<at::Tensor> leaves(const std::vector<at::Tensor>& start) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& value : start) copies.push_back(value.clone().requires_grad_());
  return copies;
}

TEST(Optimizers, Sgd_StepsAsLibTorchs) {
  const auto start = random_values(1);
  for (const auto& [momentum, nesterov] : {std::pair{0.9, false}, {0.9, true}, {0.0, false}}) {
    auto theirs = leaves(start);
    torch::optim::SGD sgd(
        theirs, torch::optim::SGDOptions(0.1).momentum(momentum).nesterov(nesterov).weight_decay(0.01));
    EXPECT_LT(max_difference({.optimizer = OptimizerKind::sgd,
                              .lr = 0.1,
                              .momentum = momentum,
                              .nesterov = nesterov,
                              .weight_decay = 0.01},
                             start, sgd, theirs),
              1e-5)
        << momentum << nesterov;
  }
}

TEST(Optimizers, Adam_StepsAsLibTorchs) {
  const auto start = random_values(1);
  auto theirs = leaves(start);
  torch::optim::Adam adam(theirs, torch::optim::AdamOptions(0.01).weight_decay(0.02));
  EXPECT_LT(max_difference({.optimizer = OptimizerKind::adam, .lr = 0.01, .weight_decay = 0.02}, start, adam,
                           theirs),
            1e-5);
}

TEST(Optimizers, Muon_TrainsKernelsAndAdamTheRest) {
  const auto start = random_values(1), gradients = random_values(0.5);
  const Optimization optimization{
      .optimizer = OptimizerKind::muon, .lr = 0.05, .momentum = 0.9, .weight_decay = 0.1, .adam_lr = 0.01};
  auto theirs = leaves(start);
  std::vector<at::Tensor> kernels = {theirs[0]}, others = {theirs[1], theirs[2], theirs[3]};
  Muon muon(kernels, MuonOptions(0.05).momentum(0.9).weight_decay(0.1).ns_dtype(at::kFloat));
  torch::optim::Adam adam(others, torch::optim::AdamOptions(0.01));
  Parameters parts(start);
  detail::Optimizers ours(parts, optimization);
  for (int step = 0; step < 3; ++step) {
    for (std::size_t i = 0; i < start.size(); ++i) {
      parts.all[i].mutable_grad() = gradients[i].clone();
      theirs[i].mutable_grad() = gradients[i].clone();
    }
    ours.step();
    muon.step();
    adam.step();
  }
  for (std::size_t i = 0; i < start.size(); ++i) {
    EXPECT_LT((parts.all[i] - theirs[i]).abs().max().item<double>(), 1e-5) << i;
    EXPECT_GT((parts.all[i] - start[i]).abs().max().item<double>(), 1e-3) << i;
  }
}

TEST(Optimizers, SharedParameter_IsTrainedOnceAndOtherTypesAreRefused) {
  Parameters once({at::ones({40})}), twice({at::ones({40})});
  twice.register_parameter("again", twice.all[0]);
  for (Parameters* parts : {&once, &twice}) {
    detail::Optimizers ours(*parts,
                            {.optimizer = OptimizerKind::sgd, .lr = 0.5, .momentum = 0.9, .weight_decay = 0});
    parts->all[0].mutable_grad() = at::ones({40});
    ours.step();
    EXPECT_TRUE(parts->all[0].equal(at::full({40}, 0.5)));
  }
  Parameters half({at::ones({3}), at::ones({3}).to(at::kBFloat16)});
  testing::expect_words(testing::error_of([&] { detail::Optimizers(half, {}); }),
                        {"parameter 'p1'", "cannot be trained", "BFloat16", "dense",
                         "keep parameters in float32", "Precision::bfloat16 computes in bfloat16"});
}

TEST(Optimizers, ParameterWithoutGradient_StaysUnchanged) {
  const auto start = random_values(1);
  for (const auto kind : {OptimizerKind::sgd, OptimizerKind::adam, OptimizerKind::muon}) {
    Parameters parts(start);
    detail::Optimizers ours(parts, {.optimizer = kind});
    EXPECT_FALSE(ours.empty());
    ours.step();
    for (std::size_t i = 0; i < start.size(); ++i) EXPECT_TRUE(parts.all[i].equal(start[i]));
  }
}

}  // namespace
}  // namespace refine
