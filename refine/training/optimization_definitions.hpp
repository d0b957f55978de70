#pragma once

// What optimization.hpp declares.

#include <refine/training/optimization.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

#include <refine/core/compiled.hpp>

namespace refine {

REFINE_DEFINITION void Optimization::validate() const {
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
  require(batch_size >= 2, "batch_size", batch_size,
          "2 or more, since BatchNorm learns nothing from one image");
  require(epochs >= 1, "epochs", epochs, "1 or more");
}

REFINE_DEFINITION double Optimization::rate_factor(std::int64_t step, std::int64_t steps, int epoch) const {
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

}  // namespace refine
