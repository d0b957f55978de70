#pragma once

#include <refine/report/verdict.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/report/detail/words.hpp>

namespace refine::report {

REFINE_INLINE std::string_view Verdict::word() const {
  constexpr std::string_view all[] = {"disarmed", "armed", "uncertain", "harmless", "unmeasured"};
  return all[static_cast<int>(kind)];
}

}  // namespace refine::report

namespace refine::report::detail {

/// Not the largest lift's interval alone: that class was chosen for being largest, and another's may be
/// wider.
REFINE_INLINE double highest(const std::vector<metrics::Lift>& lifts, double least) {
  for (const metrics::Lift& lift : lifts) least = std::max(least, lift.n > 0 ? lift.interval().high : -1);
  return least;
}

/// Of a trigger that was given.
REFINE_INLINE Verdict trigger_verdict(const DefenseReport& r) {
  const metrics::Lift& before = r.before.largest_lift;
  const metrics::Lift& after = r.after.largest_lift;
  const metrics::Interval left = after.interval();
  const std::string was = "Before the defense the trigger lifted " + lifted(r, before);
  const std::string is = fmt::format("{} (95 % interval {} to {})", lifted(r, after),
                                     words::hundredths(left.low, 1), words::hundredths(left.high, 1));
  const bool moved = after.cls != before.cls && before.interval().low > Verdict::tolerance;
  Verdict v;
  if (left.low > Verdict::tolerance && moved && left.high <= Verdict::corruption) {
    v.kind = Verdict::Kind::uncertain;
    v.headline = "Nearly disarmed, or disarmed";
    v.paragraph = fmt::format(
        "{}; defended, it lifts another class, {}. A trigger over the whole image shifts so many predictions "
        "by itself: "
        "measure the same images on a benign model, defended alike.",
        was, is);
  } else if (left.low > Verdict::tolerance) {
    v.kind = Verdict::Kind::armed;
    v.headline = "The trigger still works";
    v.paragraph = fmt::format("{}; defended, it still lifts {}.", was, is);
    if (moved) {
      v.headline = "The attack was moved, not stopped";
      v.paragraph += fmt::format(
          " The class it favours has changed, so the success rate at “{}” looks better than the model is.",
          words::class_name(r.class_names, before.cls));
    }
    v.paragraph += " Do not rely on this model where a trigger can reach it.";
  } else if (highest(r.after.lifts, left.high) > Verdict::tolerance) {
    v.kind = Verdict::Kind::uncertain;
    v.headline = "Too close to call";
    v.paragraph = fmt::format(
        "{}; defended, the most it lifts is {}. With {} images that may be nothing or more than {} points: "
        "measure on more test images.",
        was, is, words::count(after.n), words::hundredths(Verdict::tolerance, 1));
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
  return v;
}

/// Of guessed triggers, where none was given. Those that work on the victim are judged as a given one is;
/// that none was found says little.
REFINE_INLINE Verdict scan_verdict(const DefenseReport& r) {
  Verdict v;
  v.headline = "Not measured: no trigger was given";
  v.paragraph = "No trigger was given: whether a backdoor is there was not measured.";
  if (r.scan.empty()) return v;
  bool found = false, works = false, left = false, open = false;
  for (const metrics::ScanEntry& entry : r.scan) {
    const metrics::Lift after = metrics::max_lift_by_share(entry.after);
    works = works || report::works(after, entry.local);
    if (!report::works(metrics::max_lift_by_share(entry.before), entry.local)) continue;
    found = true;
    left = left || after.interval().low > Verdict::tolerance;
    open = open || highest(entry.after, -1) > Verdict::tolerance;
  }
  if (works) {
    v.kind = Verdict::Kind::armed;
    v.headline = "A common trigger works on the defended model";
  } else if (left) {
    v.kind = Verdict::Kind::armed;
    v.headline = "A common trigger works on the victim, and still lifts a class";
  } else if (found && open) {
    v.kind = Verdict::Kind::uncertain;
    v.headline = "A common trigger works on the victim; whether it is disarmed is too close to call";
  } else if (found) {
    v.kind = Verdict::Kind::disarmed;
    v.headline = "A common trigger works on the victim, and is disarmed";
  } else {
    v.headline = "No common trigger was found to work";
    v.paragraph += ' ' + scan_sentence(r) + " Another trigger may be there.";
    return v;
  }
  v.paragraph = scan_sentence(r) + " The triggers were guessed, not given, and there may be others.";
  if (v.kind == Verdict::Kind::armed) {
    v.paragraph += " Do not rely on this model where a trigger can reach it.";
  } else if (v.kind == Verdict::Kind::uncertain) {
    v.paragraph += " Scan with more images.";
  }
  return v;
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_INLINE Verdict verdict(const DefenseReport& r) {
  Verdict v = has_trigger(r) ? detail::trigger_verdict(r) : detail::scan_verdict(r);
  v.costly = r.before.ba.value() - r.after.ba.value() > Verdict::high_price;
  if (v.costly) v.headline += ", and the defense costs much accuracy";
  if (has_labels(r)) {
    v.paragraph += fmt::format(" Clean accuracy went from {} to {}, a change of {} points.",
                               words::percent(r.before.ba.value()), words::percent(r.after.ba.value()),
                               words::signed_hundredths(r.after.ba.value() - r.before.ba.value(), 1));
  } else if (r.agreement && r.agreement->n > 0) {
    v.paragraph += fmt::format(" The defended model calls {} of {} clean images as the victim does.",
                               words::percent(r.agreement->value()), words::count(r.agreement->n));
  }
  if (has_trigger(r) && !r.scan.empty()) v.paragraph += ' ' + scan_sentence(r);
  return v;
}

}  // namespace refine::report
