#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

#include <refine/core/error.hpp>

namespace refine {

/// The optimizer of a network's parameters.
enum class OptimizerKind {
  sgd,   ///< stochastic gradient descent with momentum, LibTorch's fused implementation
  adam,  ///< Adam with β = (0.9, 0.999), LibTorch's fused implementation
  muon,  ///< Muon for kernels larger than 1×1, Adam for all other parameters (see `Muon`)
};

/// How the learning rate changes during training.
enum class Schedule {
  constant,   ///< stays at `Optimization::lr`
  steps,      ///< is multiplied by `Optimization::decay` at each milestone
  one_cycle,  ///< rises for the first `Optimization::warmup` of the steps, then falls to almost 0; both
              ///< parts follow a cosine, as in PyTorch's `OneCycleLR`, except that the first step has
              ///< the full rate if warmup·steps < 1
};

/// The arithmetic of convolutions and matrix products, including those of the teacher. Weights,
/// losses and the optimizer's state stay float32. Exception: on CUDA devices the Newton–Schulz
/// iteration of Muon always computes in bfloat16.
enum class Precision {
  float32,   ///< float32, or whatever an autocast that the program has set up selects
  bfloat16,  ///< bfloat16 by autocast
  /// bfloat16 on any CUDA device and on x86 processors with AVX512_BF16 (`nn::has_bfloat16`), else
  /// float32. CUDA devices before compute capability 8 are slow in bfloat16: use `float32` there.
  automatic,
};

/// The optimizer, its schedule and the batches, as plain values. Part of `Recipe` and
/// `ClassifierRecipe`, which are saved with the result (`recipe_json.hpp`).
struct Optimization {
  OptimizerKind optimizer = OptimizerKind::sgd;  ///< the optimizer
  double lr = 0.1;                               ///< peak learning rate, positive
  double momentum = 0.9;                         ///< of SGD and Muon, in [0, 1)
  bool nesterov = false;                         ///< of SGD; Muon always uses Nesterov momentum
  double weight_decay = 5e-4;                    ///< 0 or more; L2 for SGD and Adam, decoupled for Muon.
                                                 ///< The Adam that accompanies Muon has none.
  double adam_lr = 0.005;                        ///< with Muon: the peak learning rate of its Adam, positive
  Schedule schedule = Schedule::constant;        ///< the schedule of both learning rates
  double warmup = 0.3;                           ///< `one_cycle`: share of the steps that rise, in [0, 1)
  std::array<int, 2> milestones = {0, 0};        ///< `steps`: epochs at which the rate drops; 0: unused
  double decay = 0.1;                            ///< `steps`: the factor at each milestone, positive
  int batch_size = 128;                          ///< images per step, 2 or more (BatchNorm needs two)
  int epochs = 1;                                ///< passes over the training images, 1 or more
  Precision precision = Precision::float32;      ///< the arithmetic of convolutions and matrix products
  bool sync_batch_norm = true;                   ///< with several ranks: BatchNorm takes mean and variance of
                                                 ///< the whole batch; false: of each rank's images, which
                                                 ///< saves two exchanges a BatchNorm

  /// True if all fields are equal.
  friend constexpr bool operator==(const Optimization&, const Optimization&) = default;

  /// Checks the range of each field.
  /// \throws Error naming the first field that is out of range
  void validate() const {
    const auto check = [](bool in_range, const char* field, double value, const char* range) {
      if (!in_range) throw Error("recipe.optimization.{} must be {}, got {}", field, range, value);
    };
    constexpr double max = std::numeric_limits<float>::max();  // the optimizers compute in float32
    check(lr > 0 && lr <= max, "lr", lr, "positive and at most 3.4e38");
    check(adam_lr > 0 && adam_lr <= max, "adam_lr (\"other_lr\" in JSON)", adam_lr,
          "positive and at most 3.4e38");
    check(momentum >= 0 && momentum < 1, "momentum", momentum, "in [0, 1)");
    check(!nesterov || optimizer != OptimizerKind::sgd || momentum > 0, "momentum", momentum,
          "positive with nesterov");
    check(weight_decay >= 0 && weight_decay <= max, "weight_decay", weight_decay, "in [0, 3.4e38]");
    check(warmup >= 0 && warmup < 1, "warmup", warmup, "in [0, 1)");
    for (const int milestone : milestones) {
      check(milestone >= 0, "milestones", milestone, "epochs from 1 (or 0: unused)");
    }
    check(decay > 0 && std::isfinite(decay), "decay", decay, "positive and finite");
    check(batch_size >= 2, "batch_size", batch_size, "2 or more (BatchNorm learns nothing from one image)");
    check(epochs >= 1, "epochs", epochs, "1 or more");
  }

  /// Returns the factor of the learning rates at one step.
  /// \param step the number of steps taken before, over all epochs, in [0, steps)
  /// \param steps the number of steps of the whole run
  /// \param epoch the current epoch, from 0
  double rate_factor(std::int64_t step, std::int64_t steps, int epoch) const {
    if (schedule == Schedule::steps) {
      double factor = 1;
      for (int milestone : milestones) {
        if (milestone > 0 && epoch >= milestone) factor *= decay;
      }
      return factor;
    }
    if (schedule == Schedule::constant) return 1;
    constexpr double start = 1.0 / 25, end = 1e-4 / 25;  // as in torch.optim.lr_scheduler.OneCycleLR
    const double last = static_cast<double>(std::max<std::int64_t>(steps - 1, 1));
    const double peak = std::max(warmup * static_cast<double>(steps) - 1, 0.0);
    const double position = static_cast<double>(step);
    const auto cosine = [](double from, double to, double share) {
      return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * share));
    };
    if (position < peak) return cosine(start, 1, position / peak);
    return last > peak ? cosine(1, end, (position - peak) / (last - peak)) : 1;
  }
};

}  // namespace refine
