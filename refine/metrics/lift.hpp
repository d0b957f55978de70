#pragma once

#include <range/v3/algorithm/max_element.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/confusion.hpp>
#include <refine/metrics/proportion.hpp>

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

/// One guessed trigger, tried on clean images that nobody labelled.
struct ScanEntry {
  std::string trigger;            ///< in plain words: "checkerboard 3×3, bottom right"
  std::vector<Lift> before = {};  ///< the victim's, one a class
  std::vector<Lift> after = {};   ///< the defended model's
  bool local = true;              ///< changes a small part of the image, which should move no sound model

  /// How many images it was tried on: each of them counts for all classes but the victim's own.
  std::int64_t images() const;

  friend bool operator==(const ScanEntry&, const ScanEntry&) = default;
};

/// The lift of every class c, without labels: over the images that the victim itself does not call c. Each
/// class has its own `n`, and at the victim nothing is c without the trigger. The three spans speak of the
/// same images in the same order.
/// \param own the victim's own clean predictions
/// \throws Error when the lengths differ or a class lies outside [0, classes)
std::vector<Lift> scan_lifts(Labels own, Labels clean, Labels triggered, int classes);

/// The lift of the largest share, the lowest class among equals; those over no images count for nothing.
/// Unlike `largest_lift`, for lifts over different images. Of none, a lift over no images.
Lift max_lift_by_share(const std::vector<Lift>& lifts);

inline double Lift::value() const {
  if (n == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(with_trigger - without_trigger) / static_cast<double>(n);
}

inline Interval Lift::interval(double z) const {
  if (n == 0) return {value(), value()};
  const double count = static_cast<double>(n) + 2;
  const double up = (static_cast<double>(gained) + 1) / count;
  const double down = (static_cast<double>(lost) + 1) / count;
  const double half = z * std::sqrt((up + down - (up - down) * (up - down)) / count);
  return {std::max(-1.0, up - down - half), std::min(1.0, up - down + half)};
}

inline std::vector<Lift> lifts(Labels truth, Labels clean, Labels triggered, int classes,
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

inline Lift largest_lift(const std::vector<Lift>& lifts) {
  return *ranges::max_element(lifts, {}, [](const Lift& l) { return l.with_trigger - l.without_trigger; });
}

inline std::int64_t ScanEntry::images() const {
  std::int64_t sum = 0;
  for (const Lift& lift : before) sum += lift.n;
  return before.size() < 2 ? 0 : sum / static_cast<std::int64_t>(before.size() - 1);
}

inline std::vector<Lift> scan_lifts(Labels own, Labels clean, Labels triggered, int classes) {
  require_labels("the victim's predictions", own, own.size(), classes);
  require_labels("the clean predictions", clean, own.size(), classes);
  require_labels("the triggered predictions", triggered, own.size(), classes);
  std::vector<Lift> lifts(static_cast<std::size_t>(classes));
  for (int c = 0; Lift & lift : lifts) {
    lift.cls = c++;
    lift.n = static_cast<std::int64_t>(own.size());
  }
  const auto at = [&](std::int64_t cls) -> Lift& { return lifts[static_cast<std::size_t>(cls)]; };
  for (std::size_t i = 0; i < own.size(); ++i) {
    --at(own[i]).n;
    const bool changed = clean[i] != triggered[i];
    if (triggered[i] != own[i]) {
      ++at(triggered[i]).with_trigger;
      if (changed) ++at(triggered[i]).gained;
    }
    if (clean[i] != own[i]) {
      ++at(clean[i]).without_trigger;
      if (changed) ++at(clean[i]).lost;
    }
  }
  return lifts;
}

inline Lift max_lift_by_share(const std::vector<Lift>& lifts) {
  Lift best;
  for (const Lift& lift : lifts) {
    if (lift.n > 0 && (best.n == 0 || lift.value() > best.value())) best = lift;
  }
  return best;
}

}  // namespace refine::metrics
