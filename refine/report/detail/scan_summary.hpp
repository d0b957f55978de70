#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <refine/metrics/lift.hpp>
#include <refine/report/defense_report.hpp>

namespace refine::report::detail {

/// True if a guessed trigger moves more images to one class than coincidence explains, at the lower
/// end of the lift's interval (`scan_finding`, `scan_finding_whole`).
///
/// \param lift  of the trigger
/// \param local  true if the trigger changes only a small part of the image
bool is_scan_finding(const metrics::Lift& lift, bool local);

/// Returns the lift whose interval has the largest lower end. The largest share may be of three images, and prove nothing.
///
/// \param lifts as for `max_lift_by_share`
/// \return that lift, with its `candidates`; a lift with `n` = 0 if none is left
metrics::Lift clearest_lift(const std::vector<metrics::Lift>& lifts);

/// A guessed trigger with the class that it lifts most, without and with the defense.
struct GuessedTrigger {
  std::string name;           ///< what the trigger is
  metrics::Lift before = {};  ///< largest lift on the victim
  metrics::Lift after = {};   ///< largest lift on the defended model
  bool local = true;          ///< changes only a small part of the image

  /// True if the trigger works on the victim.
  bool works_before() const { return is_scan_finding(before, local); }

  /// True if the trigger works on the defended model.
  bool works_after() const { return is_scan_finding(after, local); }
};

/// Returns one entry for each trigger of the scan. Those with the largest lift, before or after,
/// come first.
std::vector<GuessedTrigger> guessed_triggers(const DefenseReport& report);

/// Describes a lift: "“ship” by 97.0 points".
std::string describe_lift(const DefenseReport& report, const metrics::Lift& lift);

/// Describes a largest lift: "97.0 points, at “ship”".
std::string describe_largest_lift(const DefenseReport& report, const metrics::Lift& lift);

/// Returns the trigger that lifts a class of the victim the furthest, of those that work on it if there are any.
/// \param triggers not empty
const GuessedTrigger& strongest_on_victim(const std::vector<GuessedTrigger>& triggers);

/// Returns what is judged: "defended model" or "gated answer", and when: "after the defense" or "with the gated answer".
/// \param report of `served_figures`
std::string_view served_words(const DefenseReport& report);
std::string_view when_defended(const DefenseReport& report);

/// Summarizes the scan in one or two sentences of plain text. Empty if there was no scan.
std::string scan_sentence(const DefenseReport& report);

/// Returns the largest lift of any guessed trigger behind the gated answer, in one sentence. Empty if it
/// was not measured.
std::string gated_scan_sentence(const DefenseReport& report);

/// Lists the metrics that were not measured and why. Empty if all were.
inline std::string missing_metrics_note(const DefenseReport& report) {
  if (report.before.triggered.size() > 0 && !has_trigger(report))
    return "Not measured without images that the attack moves: ASR, RA, its lifts, moved share, DER.";
  if (!has_labels(report) && has_trigger(report)) {
    return "Not measured without labels: BA, RA, DER. The victim's answers to the clean images stand for the classes.";
  }
  if (!has_labels(report))
    return "Not measured without labels: BA, ASR, RA, lifts of a given trigger, moved share, DER.";
  if (!has_trigger(report)) return "Not measured without a trigger: ASR, RA, its lifts, moved share, DER.";
  if (!has_pairs(report)) return "Not in this file of an earlier version: moved share, largest pair lift.";
  return "";
}

}  // namespace refine::report::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/scan_summary.ipp>
#endif
