#pragma once

#include <cstdint>
#include <optional>
#include <vector>

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
  double value() const;

  /// The two shares are of the same images, so only those that changed sides tell anything. The adjusted Wald
  /// interval for paired proportions (bonett2012adjusted): one image more is taken as gained, one more as
  /// lost. Its centre is a little nearer to 0 than `value`.
  Interval interval(double z = z95) const;

  friend bool operator==(const Lift&, const Lift&) = default;
};

/// The lift of every class, over the test images of classes other than the target; over all of them where no
/// target is said. The three spans speak of the same images in the same order.
/// \throws Error when the lengths differ, or a label or the target lies outside [0, classes)
std::vector<Lift> lifts(Labels truth, Labels clean, Labels triggered, int classes,
                        std::optional<int> target = std::nullopt);

/// The largest of the lifts, the lowest class among equals. \pre not empty, all over the same images
Lift largest_lift(const std::vector<Lift>& lifts);

}  // namespace refine::metrics

#if !defined(REFINE_COMPILED)
#include <refine/metrics/lift_definitions.hpp>
#endif
