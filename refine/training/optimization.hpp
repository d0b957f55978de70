#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

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
  int batch_size = 128;
  int epochs = 1;
  Precision precision = Precision::float32;

  friend constexpr bool operator==(const Optimization&, const Optimization&) = default;

  /// \throws Error naming the first field that is out of range
  void validate() const {
    const auto require = [](bool fine, const char* field, double value, const char* range) {
      if (!fine) throw Error("refine: the recipe's {} is {}; it is {}", field, value, range);
    };
    require(lr > 0 && std::isfinite(lr), "lr", lr, "above 0");
    require(other_lr > 0 && std::isfinite(other_lr), "other_lr", other_lr, "above 0");
    require(momentum >= 0 && momentum < 1, "momentum", momentum, "0 to below 1");
    require(!nesterov || optimizer != OptimizerKind::sgd || momentum > 0, "momentum", momentum,
            "above 0 with nesterov");
    require(weight_decay >= 0 && std::isfinite(weight_decay), "weight_decay", weight_decay, "0 or more");
    require(warmup >= 0 && warmup < 1, "warmup", warmup, "0 to below 1");
    require(decay > 0 && std::isfinite(decay), "decay", decay, "above 0");
    require(batch_size >= 1, "batch_size", batch_size, "1 or more");
    require(epochs >= 1, "epochs", epochs, "1 or more");
  }

  /// What the learning rates are multiplied with at a point of the run. \param step from 0 to steps-1, over
  /// all epochs
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
    const double at = static_cast<double>(step);
    const auto cosine = [](double from, double to, double share) {
      return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * share));
    };
    if (at < peak) return cosine(start, 1, at / peak);
    return last > peak ? cosine(1, end, (at - peak) / (last - peak)) : 1;
  }
};

}  // namespace refine
