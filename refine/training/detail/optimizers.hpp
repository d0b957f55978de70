#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/nn/transfer.hpp>

namespace refine {

enum class OptimizerKind { sgd, adam, muon };

enum class Schedule {
  constant,
  steps,      ///< times `decay` at each milestone
  one_cycle,  ///< up for the first `warmup` of the steps, then down to nothing, both along a cosine
};

/// What convolutions and matrix products are computed in, those of the teacher too. Weights, losses and the
/// optimiser's state stay float32.
enum class Precision {
  float32,  ///< or what the program's own autocast says
  bfloat16,
  automatic,  ///< bfloat16 where the device has instructions for it (`nn::has_bfloat16`), else float32
};

/// How a network is trained: plain values, comparable and printable, saved beside the result.
struct Optimization {
  OptimizerKind optimizer = OptimizerKind::sgd;
  double lr = 0.1;
  double momentum = 0.9;       ///< of SGD and Muon
  bool nesterov = false;       ///< of SGD; Muon's is always in this form
  double weight_decay = 5e-4;  ///< L2 for SGD and Adam, decoupled for Muon, whose companion Adam has none
  double adam_lr = 0.005;      ///< with Muon: of Adam, which trains what is no hidden kernel
  Schedule schedule = Schedule::constant;
  double warmup = 0.3;                     ///< one_cycle: the share of steps on the way up, in [0, 1)
  std::array<int, 2> milestones = {0, 0};  ///< steps: epochs, 0 for none
  double decay = 0.1;                      ///< steps
  int batch_size = 128;                    ///< 2 or more: BatchNorm needs a second image to compare with
  int epochs = 1;
  Precision precision = Precision::float32;

  friend constexpr bool operator==(const Optimization&, const Optimization&) = default;

  /// \throws Error naming the first field that is out of range
  void validate() const;

  /// What the learning rates are multiplied with at a point of the run. \param step from 0 to steps-1, over
  /// all epochs
  double rate_factor(std::int64_t step, std::int64_t steps, int epoch) const;
};

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
  std::optional<nn::StreamPool> kernel_lanes_;
  std::vector<at::Tensor> squares_;  ///< of Adam
  at::Tensor taken_;                 ///< steps, of Adam
};

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/optimizers.ipp>
#endif
