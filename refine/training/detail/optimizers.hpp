#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <refine/nn/transfer.hpp>
#include <refine/training/optimization.hpp>

namespace refine::detail {

/// The optimizers that an `Optimization` asks for, stepped as one: LibTorch's fused SGD or Adam, or
/// Muon for kernels larger than 1×1 and Adam for all other parameters.
///
/// The learning rates and the step count, which all parameters share, are tensors on the
/// parameters' device. `step` is therefore the same work each time and can be recorded as a CUDA
/// graph.
class Optimizers {
 public:
  /// Collects the parameters of `module` that require a gradient.
  /// \throws Error if such a parameter is not float32, dense and non-overlapping (every element of its
  ///   memory belongs to one index)
  Optimizers(const torch::nn::Module& module, const Optimization& optimization);

  /// True if there is nothing to train.
  bool empty() const { return kernels_.empty() && others_.empty(); }

  /// Multiplies the learning rates with `factor`, see `Optimization::rate_factor`.
  void set_rate_factor(double factor);

  /// Clears all gradients.
  void zero_grad();

  /// Divides the work on Muon's kernels among ranks: from now on, `step` updates those of one rank.
  /// \param rank in [0, size)
  /// \param size number of ranks
  void divide_kernels(std::int64_t rank, std::int64_t size);

  /// Returns the parameters, in the order of the module.
  std::vector<at::Tensor> parameters() const;

  /// Returns the rank that updates each of `parameters()`; −1: every rank does.
  std::vector<std::int64_t> owners() const;

  /// Returns Muon's kernels, which are divided among ranks.
  const std::vector<at::Tensor>& kernels() const { return kernels_.parameters; }

  /// Returns the momenta of `kernels()`.
  const std::vector<at::Tensor>& kernel_momenta() const { return kernels_.momenta; }

  /// Returns the rank that updates each of `kernels()`; empty if they are not divided.
  const std::vector<std::int64_t>& kernel_owners() const { return kernel_owners_; }

  /// Updates each parameter that has a gradient.
  void step();

  /// Returns the tensors that `step` changes apart from the parameters, by name: `momentum.NAME`
  /// and `square.NAME` for each parameter, `steps` of Adam. Values that are copied into them
  /// continue an earlier run.
  std::map<std::string, at::Tensor> state() const;

 private:
  /// Checks what the fused operators require.
  static void check_parameter(const std::string& name, const at::Tensor& parameter);

  /// The parameters that one optimizer trains.
  struct Part {
    std::vector<std::string> names = {};   ///< of the parameters
    std::vector<std::size_t> places = {};  ///< of the parameters in the module
    std::vector<at::Tensor> parameters = {}, momenta = {};
    double lr = 0;
    at::Tensor rate = {};  ///< `lr` times the schedule's factor

    bool empty() const { return parameters.empty(); }

    void prepare(double learning_rate);
  };

  /// The arguments of the fused operators, restricted to parameters that have a gradient.
  struct Lists {
    std::vector<at::Tensor> parameters, gradients, momenta, squares;
  };

  Lists make_lists() const;

  /// Returns the gradient with the strides of the parameter: the fused operators go through memory
  /// in one order, and a 1×1 kernel in channels-last layout can have two different strides.
  static at::Tensor match_strides(const at::Tensor& parameter, const at::Tensor& gradient);

  void step_sgd();
  void step_adam();
  void step_muon();

  Optimization optimization_;
  Part kernels_, others_;
  std::vector<std::int64_t> kernel_owners_;  ///< a rank for each kernel; empty: all are this process's
  std::int64_t rank_ = 0;
  std::optional<nn::StreamPool> kernel_streams_;
  std::vector<at::Tensor> squares_;  ///< Adam's second moments
  at::Tensor steps_taken_;           ///< by Adam
};

}  // namespace refine::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/optimizers.ipp>
#endif
