#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <optional>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/nn/lanes.hpp>
#include <refine/training/optimization.hpp>

namespace refine {

/// The optimisers that an `Optimization` asks for, on a module's parameters, stepped as one: LibTorch's fused
/// SGD and Adam, and Muon. With Muon, kernels larger than one pixel are Muon's and all other parameters
/// Adam's. Learning rates and the count of steps, which is one for all parameters, are on the parameters'
/// device, so that `step` is the same work each time.
class Optimizers {
 public:
  /// \throws Error when a parameter that wants a gradient is not float32, or is a view
  Optimizers(const torch::nn::Module& module, const Optimization& how);

  bool empty() const { return kernels_.empty() && others_.empty(); }

  void set_rate_factor(double factor);

  void zero_grad();

  /// A parameter without a gradient stays as it is.
  void step();

 private:
  /// As the fused operators take it.
  static void require_plain(const std::string& name, const at::Tensor& parameter);

  /// What one optimiser trains.
  struct Part {
    std::vector<at::Tensor> parameters = {}, momenta = {};
    double lr = 0;
    at::Tensor rate = {};  ///< `lr` times the schedule's factor

    bool empty() const { return parameters.empty(); }

    void prepare(double learning_rate);
  };

  /// What the fused operators take: of the parameters that have gradients.
  struct Lists {
    std::vector<at::Tensor> parameters, gradients, momenta, squares;
  };

  Lists lists() const;

  /// The operators go through memory in one order. A 1×1 kernel in channels-last layout has two ways to say
  /// it.
  static at::Tensor laid_out_as(const at::Tensor& parameter, const at::Tensor& gradient);

  void sgd();

  void adam();

  void muon();

  Optimization how_;
  Part kernels_, others_;
  std::optional<nn::Lanes> kernel_lanes_;
  std::vector<at::Tensor> squares_;  ///< of Adam
  at::Tensor taken_;                 ///< steps, of Adam
};

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/training/optimizers_definitions.hpp>
#endif
