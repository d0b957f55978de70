#pragma once

#include <torch/nn/module.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>

#include <memory>
#include <utility>
#include <vector>

#include <refine/training/muon.hpp>
#include <refine/training/optimization.hpp>

namespace refine {

/// The optimisers that an `Optimization` asks for, on a module's parameters, stepped as one. With Muon,
/// kernels larger than one pixel are Muon's and all other parameters Adam's.
class Optimizers {
 public:
  Optimizers(const torch::nn::Module& module, const Optimization& how) {
    std::vector<at::Tensor> kernels, others;
    for (const auto& parameter : module.parameters()) {
      if (!parameter.requires_grad()) continue;
      const bool kernel = parameter.dim() == 4 && parameter.size(2) * parameter.size(3) > 1;
      (how.optimizer == OptimizerKind::muon && kernel ? kernels : others).push_back(parameter);
    }
    if (!kernels.empty()) {
      // A processor may have no bfloat16 arithmetic; these matrices are small.
      const auto dtype = kernels.front().is_cuda() ? at::kBFloat16 : at::kFloat;
      add<Muon>(kernels, how.lr,
                MuonOptions(how.lr).momentum(how.momentum).weight_decay(how.weight_decay).ns_dtype(dtype));
    }
    if (others.empty()) return;
    if (how.optimizer == OptimizerKind::sgd) {
      add<torch::optim::SGD>(others, how.lr,
                             torch::optim::SGDOptions(how.lr)
                                 .momentum(how.momentum)
                                 .nesterov(how.nesterov)
                                 .weight_decay(how.weight_decay));
    } else {
      const double lr = how.optimizer == OptimizerKind::muon ? how.other_lr : how.lr;
      const double decay = how.optimizer == OptimizerKind::muon ? 0 : how.weight_decay;
      add<torch::optim::Adam>(others, lr, torch::optim::AdamOptions(lr).weight_decay(decay));
    }
  }

  bool empty() const { return parts_.empty(); }

  void set_rate_factor(double factor) {
    for (auto& part : parts_) {
      for (auto& group : part.optimizer->param_groups()) group.options().set_lr(part.lr * factor);
    }
  }

  void zero_grad() {
    for (auto& part : parts_) part.optimizer->zero_grad(/*set_to_none=*/true);
  }

  void step() {
    for (auto& part : parts_) part.optimizer->step();
  }

 private:
  struct Part {
    std::unique_ptr<torch::optim::Optimizer> optimizer;
    double lr;
  };

  template <typename Optimizer, typename Options>
  void add(std::vector<at::Tensor> parameters, double lr, Options options) {
    parts_.push_back({std::make_unique<Optimizer>(std::move(parameters), std::move(options)), lr});
  }

  std::vector<Part> parts_;
};

}  // namespace refine
