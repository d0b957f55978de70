#pragma once

#include <refine/report/detail/scan_summary.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/report/detail/format.hpp>
#include <refine/report/verdict.hpp>

namespace refine::report::detail {

REFINE_INLINE bool is_scan_finding(const metrics::Lift& lift, bool local) {
  return lift.n > 0 && lift.interval().low > (local ? scan_finding : scan_finding_whole);
}

REFINE_INLINE metrics::Lift clearest_lift(const std::vector<metrics::Lift>& lifts) {
  metrics::Lift clearest = metrics::max_lift_by_share(lifts);  // has the number of candidates
  for (metrics::Lift lift : lifts) {
    lift.candidates = clearest.candidates;
    if (lift.n > 0 && lift.interval().low > clearest.interval().low) clearest = lift;
  }
  return clearest;
}

/// Returns the largest lift, by share; if another one is a finding and this one is not, that one.
REFINE_INLINE metrics::Lift shown_lift(const std::vector<metrics::Lift>& lifts, bool local) {
  const metrics::Lift largest = metrics::max_lift_by_share(lifts), clearest = clearest_lift(lifts);
  return is_scan_finding(clearest, local) && !is_scan_finding(largest, local) ? clearest : largest;
}

REFINE_INLINE std::vector<GuessedTrigger> guessed_triggers(const DefenseReport& report) {
  std::vector<GuessedTrigger> triggers;
  for (const metrics::ScanEntry& entry : report.scan) {
    triggers.push_back({entry.trigger, shown_lift(entry.before, entry.local),
                        shown_lift(entry.after, entry.local), entry.local});
  }
  const auto max_lift = [](const GuessedTrigger& t) {
    return std::max(t.before.n > 0 ? t.before.value() : -1, t.after.n > 0 ? t.after.value() : -1);
  };
  std::ranges::stable_sort(
      triggers, [&](const GuessedTrigger& a, const GuessedTrigger& b) { return max_lift(a) > max_lift(b); });
  return triggers;
}

REFINE_INLINE std::string describe_lift(const DefenseReport& report, const metrics::Lift& lift) {
  return fmt::format("“{}” by {} points", format::class_name(report.class_names, lift.cls),
                     format::hundredths(lift.value(), 1));
}

REFINE_INLINE std::string describe_largest_lift(const DefenseReport& report, const metrics::Lift& lift) {
  return fmt::format("{} points, at “{}”", format::hundredths(lift.value(), 1),
                     format::class_name(report.class_names, lift.cls));
}

/// Returns the trigger with the largest lift on one side.
///
/// \param triggers  not empty
/// \param side  `&GuessedTrigger::before` or `&GuessedTrigger::after`
REFINE_INLINE const GuessedTrigger& max_lift_on(const std::vector<GuessedTrigger>& triggers,
                                                metrics::Lift GuessedTrigger::*side) {
  return *std::ranges::max_element(triggers, {}, [&](const GuessedTrigger& trigger) {
    const metrics::Lift& lift = trigger.*side;
    return lift.n > 0 ? lift.value() : -1;
  });
}

REFINE_INLINE const GuessedTrigger& strongest_on_victim(const std::vector<GuessedTrigger>& triggers) {
  return *std::ranges::max_element(triggers, {}, [](const GuessedTrigger& trigger) {
    return std::pair(trigger.works_before(), trigger.before.n > 0 ? trigger.before.value() : -1);
  });
}

REFINE_INLINE std::string_view served_words(const DefenseReport& report) {
  return report.answer == Answer::gated ? "gated answer" : "defended model";
}

REFINE_INLINE std::string_view when_defended(const DefenseReport& report) {
  return report.answer == Answer::gated ? "with the gated answer" : "after the defense";
}

REFINE_INLINE std::string scan_sentence(const DefenseReport& report) {
  const std::vector<GuessedTrigger> triggers = guessed_triggers(report);
  if (triggers.empty()) return "";
  const GuessedTrigger& before = max_lift_on(triggers, &GuessedTrigger::before);
  const GuessedTrigger& after = max_lift_on(triggers, &GuessedTrigger::after);
  if (before.before.n == 0) return "The scan covered no images.";
  const auto subject =
      fmt::format("Of {} common trigger{}", triggers.size(), triggers.size() == 1 ? "" : "s");
  if (const auto count = std::ranges::count_if(triggers, &GuessedTrigger::works_before); count > 0) {
    const GuessedTrigger& found = strongest_on_victim(triggers);
    std::string text = fmt::format("{}, {} on the victim; the strongest, {}, lifts {} before and {} {}.",
                                   subject, count == 1 ? "one works" : fmt::format("{} work", count),
                                   found.name, describe_lift(report, found.before),
                                   describe_lift(report, found.after), when_defended(report));
    if (&after != &found) {
      text += fmt::format(" The largest lift of any of them {} is {} ({}).", when_defended(report),
                          describe_largest_lift(report, after.after), after.name);
    }
    return text;
  }
  std::string text = fmt::format(
      "{}, tried on {} clean images, none lifts a class of the victim by more than {} points ({}, “{}”)",
      subject, format::count(report.scan.front().images()), format::hundredths(before.before.value(), 1),
      before.name, format::class_name(report.class_names, before.before.cls));
  text += fmt::format("; {}, the largest lift is {} ({}).", when_defended(report),
                      describe_largest_lift(report, after.after), after.name);
  if (!before.local) text += " A change of the whole image can have this effect without a backdoor.";
  return text;
}

REFINE_INLINE std::string gated_scan_sentence(const DefenseReport& report) {
  metrics::Lift largest;
  std::string trigger;
  for (const metrics::ScanEntry& entry : report.scan) {
    const metrics::Lift lift = metrics::max_lift_by_share(entry.gated);
    if (lift.n == 0 || (largest.n > 0 && lift.value() <= largest.value())) continue;
    largest = lift;
    trigger = entry.trigger;
  }
  if (largest.n == 0) return "";
  return fmt::format("With the gated answer, the largest lift of any trigger of the scan is {} ({}).",
                     describe_largest_lift(report, largest), trigger);
}

}  // namespace refine::report::detail
