#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <range/v3/algorithm/max_element.hpp>

#include <refine/metrics/interval.hpp>
#include <refine/metrics/labels.hpp>

namespace refine::metrics {

/// What the trigger adds to one class: over the same images, the share predicted `cls` with the trigger minus
/// the share predicted `cls` without it. At the target it is the attack itself; elsewhere it finds an attack
/// that was merely sent to another class, which the success rate at the target overlooks.
struct Lift {
  int cls = 0;
  std::int64_t with_trigger = 0;     ///< images predicted `cls` with the trigger
  std::int64_t without_trigger = 0;  ///< the same images predicted `cls` without it
  std::int64_t gained = 0;           ///< predicted `cls` with the trigger only
  std::int64_t lost = 0;             ///< predicted `cls` without it only
  std::int64_t n = 0;

  /// In [-1, 1]; NaN over no images.
  double value() const {
    if (n == 0) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(with_trigger - without_trigger) / static_cast<double>(n);
  }

  /// The two shares are of the same images, so only those that changed sides tell anything. The adjusted Wald
  /// interval for paired proportions (bonett2012adjusted): one image more is taken as gained, one more as
  /// lost. Its centre is a little nearer to 0 than `value`.
  Interval interval(double z = z95) const {
    if (n == 0) return {value(), value()};
    const double count = static_cast<double>(n) + 2;
    const double up = (static_cast<double>(gained) + 1) / count;
    const double down = (static_cast<double>(lost) + 1) / count;
    const double half = z * std::sqrt((up + down - (up - down) * (up - down)) / count);
    return {std::max(-1.0, up - down - half), std::min(1.0, up - down + half)};
  }

  friend bool operator==(const Lift&, const Lift&) = default;
};

/// The lift of every class, over the test images of classes other than the target; over all of them where no
/// target is said. The three spans speak of the same images in the same order.
/// \throws Error when the lengths differ, or a label or the target lies outside [0, classes)
inline std::vector<Lift> lifts(Labels truth, Labels clean, Labels triggered, int classes,
                               std::optional<int> target = std::nullopt) {
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

/// The largest of the lifts, the lowest class among equals. \pre not empty, all over the same images
inline Lift largest_lift(const std::vector<Lift>& lifts) {
  return *ranges::max_element(lifts, {}, [](const Lift& l) { return l.with_trigger - l.without_trigger; });
}

}  // namespace refine::metrics
