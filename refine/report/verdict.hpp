#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

#include <refine/report/defense_report.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

/// What the figures amount to, in plain words, read off the largest lift alone: ASR watches one class.
struct Verdict {
  enum class Kind { disarmed, armed, uncertain, harmless, unmeasured };

  /// A trigger that lifts no class by more than this, at the upper end of each class's 95 % interval, is
  /// disarmed.
  static constexpr double tolerance = 0.05;

  /// A loss of clean accuracy beyond this is said in the headline.
  static constexpr double high_price = 0.10;

  Kind kind = Kind::unmeasured;
  bool costly = false;
  std::string headline;
  std::string paragraph;  ///< plain text

  /// A stable word for files.
  std::string_view word() const {
    constexpr std::string_view all[] = {"disarmed", "armed", "uncertain", "harmless", "unmeasured"};
    return all[static_cast<int>(kind)];
  }
};

inline Verdict verdict(const DefenseReport& r) {
  const metrics::Lift& before = r.before.largest_lift;
  const metrics::Lift& after = r.after.largest_lift;
  const auto name = [&](int cls) { return words::class_name(r.class_names, cls); };
  const auto points = [](double share) { return words::hundredths(share, 1) + " points"; };
  const auto range = [](const metrics::Interval& i) {
    return fmt::format("95 % interval {} to {}", words::hundredths(i.low, 1), words::hundredths(i.high, 1));
  };

  // Not the largest lift's interval alone: that class was chosen for being largest, and another's may be
  // wider.
  double highest = after.interval().high;
  for (const metrics::Lift& lift : r.after.lifts) highest = std::max(highest, lift.interval().high);

  Verdict v;
  if (before.n == 0 || after.n == 0) {
    v.headline = "Not measured";
    v.paragraph = "No triggered test images were measured, so nothing can be said of a backdoor.";
  } else {
    const std::string was = fmt::format("Before the defense the trigger lifted “{}” by {}", name(before.cls),
                                        points(before.value()));
    const std::string is =
        fmt::format("“{}” by {} ({})", name(after.cls), points(after.value()), range(after.interval()));
    if (after.interval().low > Verdict::tolerance) {
      v.kind = Verdict::Kind::armed;
      v.headline = "The trigger still works";
      v.paragraph = fmt::format("{}; defended, it still lifts {}.", was, is);
      if (after.cls != before.cls && before.interval().low > Verdict::tolerance) {
        v.headline = "The attack was moved, not stopped";
        v.paragraph += fmt::format(
            " The class it favours has changed, so the success rate at “{}” looks better than the model is.",
            name(before.cls));
      }
      v.paragraph += " Do not rely on this model where a trigger can reach it.";
    } else if (highest > Verdict::tolerance) {
      v.kind = Verdict::Kind::uncertain;
      v.headline = "Too close to call";
      v.paragraph = fmt::format(
          "{}; defended, the most it lifts is {}. With {} images that may be nothing or more "
          "than {}: measure on more test images.",
          was, is, words::count(after.n), points(Verdict::tolerance));
    } else if (before.interval().high <= Verdict::tolerance) {
      v.kind = Verdict::Kind::harmless;
      v.headline = "There was nothing to disarm";
      v.paragraph =
          fmt::format("{}, too little to call it a backdoor; defended, the most it lifts is {}.", was, is);
    } else {
      v.kind = Verdict::Kind::disarmed;
      v.headline = "The trigger is disarmed";
      v.paragraph = fmt::format("{}; defended, the most it lifts any class is {}.", was, is);
    }
    if (!r.after.target) v.paragraph += " No target class was stated, so the lifts speak of all test images.";
  }
  v.costly = r.before.ba.value() - r.after.ba.value() > Verdict::high_price;
  if (v.costly) v.headline += ", and the defense costs much accuracy";
  if (r.before.ba.n > 0) {
    v.paragraph += fmt::format(" Clean accuracy went from {} to {}, a change of {} points.",
                               words::percent(r.before.ba.value()), words::percent(r.after.ba.value()),
                               words::signed_hundredths(r.after.ba.value() - r.before.ba.value(), 1));
  }
  return v;
}

}  // namespace refine::report
