#pragma once

#include <refine/report/verdict.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/report/detail/format.hpp>
#include <refine/report/detail/scan_summary.hpp>

namespace refine::report {

namespace detail {

/// Returns the largest upper end of the lifts' intervals, at least `least`.
///
/// The interval of the largest lift is not enough: that class was selected for being the largest,
/// and the interval of another may be wider.
REFINE_INLINE double max_upper_end(const std::vector<metrics::Lift>& lifts, double least) {
  for (const metrics::Lift& lift : lifts) least = std::max(least, lift.n > 0 ? lift.interval().high : -1);
  return least;
}

/// Returns the largest lift of a pair over at least `Verdict::min_pair_images` images, of which a single one does not
/// exceed the tolerance. Where an attack has a target, `metrics::target_lift` judges it over all classes.
/// Without a target, every pair counts.
REFINE_INLINE metrics::PairLift largest_pair_that_counts(const metrics::AttackMetrics& m) {
  const metrics::PairLift& largest = m.largest_pair_lift;
  if (largest.lift.n == 0 || largest.lift.n >= Verdict::min_pair_images || metrics::target_lift(m).n == 0)
    return largest;
  metrics::PairLift found{.pairs = largest.pairs};
  for (int truth = 0; truth < m.classes; ++truth) {
    if (m.clean.row(truth).sum() < Verdict::min_pair_images) continue;
    for (int cls = 0; cls < m.classes; ++cls) {
      if (cls == truth || m.triggered(truth, cls) <= m.clean(truth, cls)) continue;
      const metrics::PairLift pair = metrics::pair_lift(m, truth, cls);
      if (found.lift.n == 0 || pair.value() > found.value()) found = pair;
    }
  }
  return found;
}

/// What the trigger does to pairs of classes, where that was measured.
struct PairFinding {
  std::vector<metrics::PairLift> before = {};   ///< pairs that the attack moves, the largest first
  std::vector<metrics::PairLift> armed = {};    ///< pairs that it still moves after the defense
  std::vector<metrics::PairLift> unclear = {};  ///< pairs that corruption may move, too
  std::vector<metrics::PairLift> too_few =
      {};  ///< one that may be above the tolerance or below, if there is any

  /// True if a pair that the attack moves after the defense is not one that it moved before.
  bool is_moved = false;
};

/// Sorts the pairs of a report by what they say.
REFINE_INLINE PairFinding judge_pairs(const DefenseReport& report) {
  PairFinding finding;
  finding.before = metrics::pair_lifts_above(report.before, Verdict::pair_corruption);
  for (const metrics::PairLift& pair : metrics::pair_lifts_above(report.after, Verdict::pair_tolerance)) {
    const bool was_attacked = std::ranges::any_of(finding.before, [&](const metrics::PairLift& before) {
      return before.truth == pair.truth && before.lift.cls == pair.lift.cls;
    });
    if (was_attacked || pair.interval().low > Verdict::pair_corruption) {
      if (finding.armed.empty()) finding.is_moved = !was_attacked && !finding.before.empty();
      finding.armed.push_back(pair);
    } else {
      finding.unclear.push_back(pair);
    }
  }
  if (const metrics::PairLift largest = largest_pair_that_counts(report.after);
      largest.value() > Verdict::pair_tolerance && largest.interval().low <= Verdict::pair_tolerance) {
    finding.too_few.push_back(largest);
  }
  return finding;
}

/// True if the trigger was shown, but only on images of classes that the attack leaves where they are.
REFINE_INLINE bool lacks_moved_images(const DefenseReport& report) {
  const metrics::AttackMetrics& before = report.before;
  return before.target && before.triggered.size() > 0 && before.asr.n == 0;
}

/// True if a lift that was not selected among others is above a threshold, at the lower end of its interval.
REFINE_INLINE bool is_above(const metrics::Lift& lift, double threshold) {
  return lift.n > 0 && lift.interval(metrics::z95).low > threshold;
}

/// True if such a lift may be above a threshold, at the upper end.
REFINE_INLINE bool may_be_above(const metrics::Lift& lift, double threshold) {
  return lift.n > 0 && lift.interval(metrics::z95).high > threshold;
}

/// Describes the largest of some pairs: "“cat” to “dog” by 95.0 points, the largest of 10 pairs".
///
/// \param pairs  not empty, the largest first
REFINE_INLINE std::string describe_pairs(const DefenseReport& report,
                                         const std::vector<metrics::PairLift>& pairs) {
  const metrics::PairLift& largest = pairs.front();
  return fmt::format("“{}” to {}{}", format::class_name(report.class_names, largest.truth),
                     describe_lift(report, largest.lift),
                     pairs.size() == 1 ? ""
                                       : fmt::format(", the largest of {} pairs",
                                                     format::count(static_cast<std::int64_t>(pairs.size()))));
}

/// Describes a 95 % interval in points, in parentheses.
/// \param count number of classes or pairs among which the lift is the largest
REFINE_INLINE std::string describe_interval(const metrics::Interval& interval, std::int64_t count,
                                            std::string_view what) {
  return fmt::format("(95 % interval {} to {}{})", format::hundredths(interval.low, 1),
                     format::hundredths(interval.high, 1),
                     count == 1 ? "" : fmt::format(", corrected for {} {}", format::count(count), what));
}

/// Judges a trigger that was given.
REFINE_INLINE Verdict trigger_verdict(const DefenseReport& report) {
  const metrics::Lift& before = report.before.largest_lift;
  const metrics::Lift& after = report.after.largest_lift;
  const metrics::Interval interval = after.interval();
  const PairFinding pairs = judge_pairs(report);
  // An attack on the images of one class, or of each class, shows more clearly as a pair.
  const auto names_pair = [](const std::vector<metrics::PairLift>& found, const metrics::Lift& lift) {
    return !found.empty() && found.front().value() > 1.5 * lift.value();
  };
  // Where classes have few images, neither a class nor a pair shows an attack with a target for each class.
  const metrics::Lift wanted_before = metrics::target_lift(report.before),
                      wanted_after = metrics::target_lift(report.after);
  const auto wanted_effect = [](const metrics::Lift& lift) {
    return fmt::format("the classes that the attacker wants by {} points",
                       format::hundredths(lift.value(), 1));
  };
  const bool is_wanted_before = is_above(wanted_before, Verdict::pair_tolerance);
  const std::string effect_before =
      "Before the defense, the trigger " + (names_pair(pairs.before, before)
                                                ? "moves " + describe_pairs(report, pairs.before)
                                            : is_wanted_before && wanted_before.value() > 1.5 * before.value()
                                                ? "lifts " + wanted_effect(wanted_before)
                                                : "lifts " + describe_lift(report, before));
  const std::string effects = fmt::format("{}; {}", effect_before, when_defended(report));
  const std::string interval_after = describe_interval(interval, after.candidates, "classes");
  const std::string effect_after = fmt::format("{} {}", describe_lift(report, after), interval_after);
  const std::string largest_after =
      fmt::format("{} {}", describe_largest_lift(report, after), interval_after);
  const auto pair_effect = [&](const std::vector<metrics::PairLift>& found) {
    return fmt::format("{} {}", describe_pairs(report, found),
                       describe_interval(found.front().interval(), found.front().pairs, "pairs"));
  };
  const bool is_other_class = after.cls != before.cls && before.interval().low > Verdict::tolerance;
  const bool is_lifted = interval.low > Verdict::tolerance;
  const bool is_nearly_disarmed = is_lifted && is_other_class && interval.high <= Verdict::corruption;
  const std::string wanted_interval = describe_interval(wanted_after.interval(metrics::z95), 1, "");
  const auto instead = [&](std::string_view verb, const std::string& effect) {
    return fmt::format(
        "{}, it {} {} instead. A trigger that changes the whole image can shift this many "
        "predictions by itself. To find out, measure the same images on a benign model with the same defense.",
        effects, verb, effect);
  };
  const bool was_armed =
      !pairs.before.empty() || before.interval().low > Verdict::tolerance || is_wanted_before;
  Verdict v;
  if (!pairs.armed.empty() && (!is_lifted || is_nearly_disarmed || names_pair(pairs.armed, after))) {
    v.kind = Verdict::Kind::armed;
    v.headline = pairs.is_moved ? "The attack was moved, not stopped"
                 : was_armed    ? "The trigger still works"
                                : "The trigger works on the defended model";
    v.paragraph = fmt::format(
        "{}, it {}moves {}. Do not rely on this model where an attacker can "
        "show it the trigger.",
        effects, pairs.is_moved || pairs.before.empty() ? "" : "still ", pair_effect(pairs.armed));
  } else if ((!is_lifted || is_nearly_disarmed) && is_above(wanted_after, Verdict::pair_tolerance)) {
    v.kind = Verdict::Kind::armed;
    v.headline = was_armed ? "The trigger still works" : "The trigger works on the defended model";
    v.paragraph = fmt::format(
        "{}, it {}lifts {} {}. Do not rely on this model where an attacker can show it the trigger.", effects,
        was_armed ? "still " : "", wanted_effect(wanted_after), wanted_interval);
  } else if (is_nearly_disarmed) {
    v.kind = Verdict::Kind::uncertain;
    v.headline = "Disarmed, or nearly so";
    v.paragraph = instead("lifts", effect_after);
  } else if (is_lifted) {
    v.kind = Verdict::Kind::armed;
    v.headline = was_armed ? "The trigger still works" : "The trigger works on the defended model";
    v.paragraph = fmt::format("{}, it {}lifts {}.", effects, was_armed && !is_other_class ? "still " : "",
                              effect_after);
    if (is_other_class) {
      v.headline = "The attack was moved, not stopped";
      v.paragraph += fmt::format(
          " The attack now targets another class, so the success rate at “{}” makes the model look better than it is.",
          format::class_name(report.class_names, before.cls));
    }
    v.paragraph += " Do not rely on this model where an attacker can show it the trigger.";
  } else if (max_upper_end(report.after.lifts, after.interval(metrics::z95).high) > Verdict::tolerance) {
    v.kind = Verdict::Kind::uncertain;
    v.headline = "Too close to call";
    v.paragraph = fmt::format(
        "{}, the largest lift is {}. With {} images, the effect may be zero or more than {} points; "
        "measure on more test images.",
        effects, largest_after, format::count(after.n), format::hundredths(Verdict::tolerance, 1));
  } else if (!pairs.unclear.empty()) {
    v.kind = Verdict::Kind::uncertain;
    v.headline = "Disarmed, or nearly so";
    v.paragraph = instead("moves", pair_effect(pairs.unclear));
  } else if (!pairs.too_few.empty()) {
    const metrics::PairLift& largest = pairs.too_few.front();
    v.kind = Verdict::Kind::uncertain;
    v.headline = "Too close to call";
    v.paragraph = fmt::format(
        "{}, the largest lift of a class is {}, but the trigger seems to move {}. With {} image{} of "
        "“{}”, the effect may be less or more than {} points; measure on more test images.",
        effects, largest_after, pair_effect({largest}), format::count(largest.lift.n),
        largest.lift.n == 1 ? "" : "s", format::class_name(report.class_names, largest.truth),
        format::hundredths(Verdict::pair_tolerance, 1));
  } else if (may_be_above(wanted_after, Verdict::pair_tolerance)) {
    v.kind = Verdict::Kind::uncertain;
    v.headline = "Too close to call";
    v.paragraph = fmt::format(
        "{}, it lifts {} {}. With {} images that the attack moves, the effect may be less or more than {} "
        "points; measure on more test images.",
        effects, wanted_effect(wanted_after), wanted_interval, format::count(wanted_after.n),
        format::hundredths(Verdict::pair_tolerance, 1));
  } else if (before.interval().high <= Verdict::tolerance && pairs.before.empty() &&
             !may_be_above(wanted_before, Verdict::pair_tolerance)) {
    v.kind = Verdict::Kind::harmless;
    v.headline = "There was nothing to disarm";
    v.paragraph = fmt::format("{}, too little for a backdoor; {}, the largest lift is {}.", effect_before,
                              when_defended(report), largest_after);
  } else {
    v.kind = Verdict::Kind::disarmed;
    v.headline = "The trigger is disarmed";
    v.paragraph = fmt::format("{}, the largest lift is {}.", effects, largest_after);
  }
  const metrics::PairLift& largest = report.after.largest_pair_lift;
  if (v.kind == Verdict::Kind::disarmed && names_pair(pairs.before, before)) {
    v.paragraph += fmt::format(" The largest lift of a pair is {}.", pair_effect({largest}));
  }
  if (!report.after.target)
    v.paragraph += " No target class was specified, so the lifts cover all test images.";
  return v;
}

/// Returns the conclusion of a report for which `lacks_moved_images`.
REFINE_INLINE Verdict verdict_without_moved_images() {
  Verdict v;
  v.headline = "Not measured: no image is of a class that the attack moves";
  v.paragraph =
      "The trigger was shown on images of other classes only, so whether it works was not measured.";
  return v;
}

/// Names what the scan found in the victim; see `Verdict::finding`.
REFINE_INLINE std::string scan_finding_sentence(const DefenseReport& report) {
  const std::vector<GuessedTrigger> triggers = guessed_triggers(report);
  const GuessedTrigger* strongest = nullptr;
  const auto is_weaker = [](const GuessedTrigger& a, const GuessedTrigger& b) {
    return std::pair(a.works_before(), a.before.value()) < std::pair(b.works_before(), b.before.value());
  };
  for (const GuessedTrigger& trigger : triggers) {
    const bool is_notable =
        trigger.works_before() || (trigger.before.n > 0 && trigger.before.interval().low > scan_notable);
    if (is_notable && (strongest == nullptr || is_weaker(*strongest, trigger))) strongest = &trigger;
  }
  if (strongest == nullptr) return "";
  std::string text =
      fmt::format("Found in the victim: {} lifts {} before the defense, and {} {}", strongest->name,
                  describe_lift(report, strongest->before), describe_lift(report, strongest->after),
                  report.answer == Answer::gated ? when_defended(report) : "after");
  if (!strongest->works_before() && !strongest->local)
    text += "; a change of the whole image can do so without a backdoor";
  return text;
}

/// Judges guessed triggers, where none was given. Those that work on the victim are judged as a
/// given one. A scan without a finding proves little.
REFINE_INLINE Verdict scan_verdict(const DefenseReport& report) {
  Verdict v;
  v.headline = "Not measured: no trigger was given";
  v.paragraph = "No trigger was given, so whether the victim has a backdoor was not measured.";
  if (report.scan.empty()) return v;
  bool works_before = false, works_after = false, lifts_after = false, may_lift_after = false;
  for (const metrics::ScanEntry& entry : report.scan) {
    const metrics::Lift after = clearest_lift(entry.after);
    works_after = works_after || is_scan_finding(after, entry.local);
    if (!is_scan_finding(clearest_lift(entry.before), entry.local)) continue;
    works_before = true;
    lifts_after = lifts_after || after.interval().low > Verdict::tolerance;
    may_lift_after = may_lift_after || max_upper_end(entry.after, -1) > Verdict::tolerance;
  }
  if (works_after) {
    v.kind = Verdict::Kind::armed;
    v.headline = "A common trigger works on the defended model";
  } else if (lifts_after) {
    v.kind = Verdict::Kind::armed;
    v.headline = "A common trigger works on the victim and still lifts a class after the defense";
  } else if (works_before && may_lift_after) {
    v.kind = Verdict::Kind::uncertain;
    v.headline = "A common trigger works on the victim; whether it is disarmed is too close to call";
  } else if (works_before) {
    v.kind = Verdict::Kind::disarmed;
    v.headline = "A common trigger works on the victim and is disarmed";
  } else {
    v.headline = scan_finding_sentence(report).empty()
                     ? "No common trigger was found to work"
                     : "No common trigger works for certain, but one lifts a class of the victim";
    v.paragraph += ' ' + scan_sentence(report) + " Another trigger may exist.";
    return v;
  }
  v.paragraph = scan_sentence(report) + " The triggers were guessed, not given; others may exist.";
  if (v.kind == Verdict::Kind::armed) {
    v.paragraph += " Do not rely on this model where an attacker can show it the trigger.";
  } else if (v.kind == Verdict::Kind::uncertain) {
    v.paragraph += " Scan more images.";
  }
  return v;
}

/// Returns the number of clean images that were measured: of those with labels and of all, the fewer.
/// \param report has labels, or the agreement
REFINE_INLINE std::int64_t clean_images(const DefenseReport& report) {
  const std::int64_t agreement = report.agreement ? report.agreement->n : 0;
  if (!has_labels(report)) return agreement;
  return agreement == 0 ? report.after.ba.n : std::min(report.after.ba.n, agreement);
}

/// Decides what to do with the served answer.
/// \param report its measurements
/// \param full_report those of both answers
REFINE_INLINE void decide(const DefenseReport& report, const DefenseReport& full_report, Verdict& v) {
  using Decision = Verdict::Decision;
  const auto is_low = [](const std::optional<metrics::Proportion>& agreement) {
    return agreement && agreement->n > 0 && agreement->value() < Verdict::min_agreement;
  };
  if (has_labels(report) ? v.costly : is_low(report.agreement)) {
    v.decision = Decision::improve;
    v.reason =
        has_labels(report)
            ? fmt::format("clean accuracy falls from {} to {}", format::percent(report.before.ba.value()),
                          format::percent(report.after.ba.value()))
            : fmt::format("the {} agrees with the victim on {} of clean images only", served_words(report),
                          format::percent(report.agreement->value()));
  } else if (full_report.answer == Answer::gated && is_low(full_report.agreement)) {
    v.decision = Decision::improve;
    v.reason = fmt::format(
        "the defended answer, on which the alarm is based, agrees with the victim on {} of clean images only",
        format::percent(full_report.agreement->value()));
  } else if (!has_labels(report) && (!report.agreement || report.agreement->n == 0)) {
    v.decision = Decision::improve;
    v.reason = "neither accuracy nor agreement with the victim was measured";
  } else if (!report.lost_classes.empty()) {
    v.decision = Decision::improve;
    v.reason = fmt::format("the defended model never answers {}",
                           format::class_name(report.class_names, report.lost_classes.front()));
    if (const std::size_t others = report.lost_classes.size() - 1; others > 0)
      v.reason += fmt::format(" and {} more class{}", others, others == 1 ? "" : "es");
  } else if (lacks_moved_images(report)) {
    v.decision = Decision::improve;
    v.reason = "no image of a class that the attack moves was measured; add images of such classes";
  } else if (const std::int64_t images = clean_images(report); images < Verdict::min_images) {
    v.decision = Decision::improve;
    v.reason = fmt::format("{} too few to tell how often it answers as the victim does",
                           images == 1 ? "one clean image is" : fmt::format("{} clean images are", images));
  } else if (v.kind == Verdict::Kind::armed) {
    v.decision = Decision::retrain;
    v.reason = "a trigger works on the defended model, although it is trained well enough";
  } else if (v.kind == Verdict::Kind::uncertain) {
    v.decision = Decision::improve;
    v.reason = "whether the trigger is disarmed is too close to call; measure on more images first";
  } else {
    v.decision = Decision::serve;
    v.reason = v.kind == Verdict::Kind::disarmed   ? "the trigger no longer works on it"
               : v.kind == Verdict::Kind::harmless ? "the trigger had no effect on the victim"
               : report.scan.empty()               ? "no trigger was tried"
                                                   : "no trigger of the scan works on it; others may exist";
    if (has_labels(report)) {
      v.reason +=
          fmt::format(", and clean accuracy changes by {} points",
                      format::signed_hundredths(report.after.ba.value() - report.before.ba.value(), 1));
    } else if (report.agreement && report.agreement->n > 0) {
      v.reason += fmt::format(", and it agrees with the victim on {} of clean images",
                              format::percent(report.agreement->value()));
    }
  }
  if (v.kind == Verdict::Kind::armed && v.decision == Decision::improve)
    v.reason += ", and a trigger works on it";
}

}  // namespace detail

REFINE_INLINE std::string_view Verdict::decision_word() const {
  constexpr std::string_view words[] = {"serve", "improve", "retrain"};
  return words[static_cast<int>(decision)];
}

REFINE_INLINE std::string Verdict::advice() const {
  constexpr std::string_view words[] = {"Serve it", "Train longer or get more images",
                                        "Retrain the victim from trusted data"};
  return fmt::format("{}: {}", words[static_cast<int>(decision)], reason);
}

REFINE_INLINE std::string_view Verdict::word() const {
  constexpr std::string_view words[] = {"disarmed", "armed", "uncertain", "harmless", "unmeasured"};
  return words[static_cast<int>(kind)];
}

REFINE_INLINE Verdict verdict(const DefenseReport& full_report) {
  const DefenseReport report = served_figures(full_report);
  Verdict v = detail::lacks_moved_images(report) ? detail::verdict_without_moved_images()
              : has_trigger(report)              ? detail::trigger_verdict(report)
                                                 : detail::scan_verdict(report);
  const double ba_before = report.before.ba.value(), ba_after = report.after.ba.value();
  v.costly = ba_before - ba_after > Verdict::high_price;
  if (v.costly) v.headline += ", and the defense costs much accuracy";
  if (has_labels(report)) {
    v.paragraph +=
        fmt::format(" Clean accuracy changes from {} to {}, by {} points.", format::percent(ba_before),
                    format::percent(ba_after), format::signed_hundredths(ba_after - ba_before, 1));
  } else if (report.agreement && report.agreement->n > 0) {
    v.paragraph +=
        fmt::format(" The {} agrees with the victim on {} of {} clean images.", detail::served_words(report),
                    format::percent(report.agreement->value()), format::count(report.agreement->n));
  }
  if (has_trigger(report) && !report.scan.empty()) v.paragraph += ' ' + detail::scan_sentence(report);
  if (full_report.answer == Answer::gated) {
    v.paragraph +=
        " The gated answer is served: an attacker whose trigger does not raise the alarm gets the victim's "
        "answer.";
  }
  v.finding = detail::scan_finding_sentence(report);
  detail::decide(report, full_report, v);
  if (full_report.answer == Answer::gated && v.decision == Verdict::Decision::retrain) {
    DefenseReport defended = full_report;
    defended.answer = Answer::defended;
    if (const Verdict other = verdict(defended); other.kind != Verdict::Kind::armed) {
      v.decision = Verdict::Decision::improve;
      v.reason = "a trigger does not raise the alarm and works on the gated answer; serve the defended one";
    }
  }
  return v;
}

}  // namespace refine::report
