#pragma once

#include <array>
#include <cstdint>

#include <refine/core/error.hpp>

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
  double other_lr = 0.005;     ///< with Muon: of Adam, which trains what is no hidden kernel
  Schedule schedule = Schedule::constant;
  double warmup = 0.3;                     ///< one_cycle: the share of steps on the way up, in [0, 1)
  std::array<int, 2> milestones = {0, 0};  ///< steps: epochs, 0 for none
  double decay = 0.1;                      ///< steps
  int batch_size = 128;  ///< 2 or more: BatchNorm needs a second image to compare with
  int epochs = 1;
  Precision precision = Precision::float32;

  friend constexpr bool operator==(const Optimization&, const Optimization&) = default;

  /// \throws Error naming the first field that is out of range
  void validate() const;

  /// What the learning rates are multiplied with at a point of the run. \param step from 0 to steps-1, over
  /// all epochs
  double rate_factor(std::int64_t step, std::int64_t steps, int epoch) const;
};

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/training/optimization_definitions.hpp>
#endif
