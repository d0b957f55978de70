#pragma once

// What lift.hpp declares.

#include <refine/metrics/lift.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <range/v3/algorithm/max_element.hpp>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>

namespace refine::metrics {

REFINE_DEFINITION double Lift::value() const {
  if (n == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(with_trigger - without_trigger) / static_cast<double>(n);
}

REFINE_DEFINITION Interval Lift::interval(double z) const {
  if (n == 0) return {value(), value()};
  const double count = static_cast<double>(n) + 2;
  const double up = (static_cast<double>(gained) + 1) / count;
  const double down = (static_cast<double>(lost) + 1) / count;
  const double half = z * std::sqrt((up + down - (up - down) * (up - down)) / count);
  return {std::max(-1.0, up - down - half), std::min(1.0, up - down + half)};
}

REFINE_DEFINITION std::vector<Lift> lifts(Labels truth, Labels clean, Labels triggered, int classes,
                                          std::optional<int> target) {
  require_labels("the true labels", truth, truth.size(), classes);
  require_labels("the clean predictions", clean, truth.size(), classes);
  require_labels("the triggered predictions", triggered, truth.size(), classes);
  if (target && (*target < 0 || *target >= classes)) {
    throw Error("cannot measure the attack: its target is class {}, outside 0 to {}; check the target",
                *target, classes - 1);
  }
  std::vector<Lift> result(static_cast<std::size_t>(classes));
  std::int64_t n = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    if (truth[i] == target) continue;
    ++n;
    auto& before = result[static_cast<std::size_t>(clean[i])];
    auto& after = result[static_cast<std::size_t>(triggered[i])];
    ++before.without_trigger;
    ++after.with_trigger;
    if (clean[i] != triggered[i]) {
      ++before.lost;
      ++after.gained;
    }
  }
  for (int c = 0; Lift & lift : result) {
    lift.cls = c++;
    lift.n = n;
  }
  return result;
}

REFINE_DEFINITION Lift largest_lift(const std::vector<Lift>& lifts) {
  return *ranges::max_element(lifts, {}, [](const Lift& l) { return l.with_trigger - l.without_trigger; });
}

}  // namespace refine::metrics
