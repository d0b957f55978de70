#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/report/images.hpp>

namespace refine::report {

/// A quantity over the course of a training run. The page draws it as a line.
struct Curve {
  std::string name;       ///< for example "defense loss"
  std::string unit;       ///< of `y`, for example "%" or "nats"; may be empty
  std::string x_label;    ///< for example "epoch"
  std::vector<double> x;  ///< positions
  std::vector<double> y;  ///< values, as many as `x`; a value that is not finite leaves a gap
};

/// A class is lost if the victim gives it to this many clean images or more, and the defended model to none.
inline constexpr std::int64_t lost_class_images = 10;

/// The content of a report about a defense.
///
/// One measurement is enough: the metrics before and after the defense or, without labels and
/// without a trigger, an alarm, an agreement or a scan.
struct DefenseReport {
  std::string title = {};                     ///< heading; may be empty
  std::string dataset = {};                   ///< name of the data set; may be empty
  std::string model = {};                     ///< name of the victim's network or file; may be empty
  std::string attack = {};                    ///< name of the attack; may be empty
  std::vector<std::string> class_names = {};  ///< one for each class, or empty: classes are then numbered
  metrics::AttackMetrics before = {};         ///< of the victim; with 0 classes, not measured
  metrics::AttackMetrics after = {};          ///< of the defended model, on the same images
  std::optional<metrics::AlarmMetrics> alarm = std::nullopt;  ///< of the defense's alarm
  /// Share of clean images to which victim and defended model assign the same class.
  std::optional<metrics::Proportion> agreement = std::nullopt;
  std::vector<int> lost_classes = {};         ///< see `lost_class_images`
  std::vector<metrics::ScanEntry> scan = {};  ///< lifts of guessed triggers
  /// Of the gated answer, at the alarm's threshold.
  std::optional<metrics::GatedMetrics> gated = std::nullopt;
  Answer answer = Answer::defended;  ///< the answer that is served, which the verdict judges
  std::vector<Curve> curves = {};    ///< of the training runs
  std::vector<std::pair<std::string, std::string>> facts = {};  ///< recipe, seed, device, …, in this order
  ImageSheet sheet = {};                                        ///< test images at each stage
};

/// Returns the measurements of the answer that is served: with `Answer::gated`, those of the gated
/// answer in place of the defended one's, and `answer` says which they are. Title, curves, facts and images are left out.
inline DefenseReport served_figures(const DefenseReport& report) {
  DefenseReport served{.attack = report.attack,
                       .class_names = report.class_names,
                       .before = report.before,
                       .after = report.after,
                       .alarm = report.alarm,
                       .agreement = report.agreement,
                       .lost_classes = report.lost_classes,
                       .scan = report.scan};
  if (report.answer != Answer::gated || !report.gated) return served;
  served.answer = Answer::gated;
  served.after = report.gated->metrics;
  served.agreement = report.gated->agreement;
  served.lost_classes.clear();  // where the alarm is silent, the victim answers
  for (metrics::ScanEntry& entry : served.scan) {
    if (!entry.gated.empty()) entry.after = entry.gated;
  }
  return served;
}

/// Returns the number of classes, from whichever measurement has it, or 0 if none does.
inline int class_count(const DefenseReport& report) {
  if (report.after.classes > 0) return report.after.classes;
  return static_cast<int>(report.scan.empty() ? report.class_names.size()
                                              : report.scan.front().before.size());
}

/// True if the report has metrics of clean, labelled images.
inline bool has_labels(const DefenseReport& report) {
  return report.before.ba.n > 0 && report.after.ba.n > 0;
}

/// True if the report has the lifts of pairs of classes; files of earlier versions do not.
inline bool has_pairs(const DefenseReport& report) {
  return report.before.largest_pair_lift.lift.n > 0 && report.after.largest_pair_lift.lift.n > 0;
}

/// True if the report has metrics of triggered, labelled images.
inline bool has_trigger(const DefenseReport& report) {
  return report.before.largest_lift.n > 0 && report.after.largest_lift.n > 0;
}

/// Checks that something was measured and that the parts of the report agree.
///
/// \throws Error if nothing was measured, or if classes, targets, images or curve lengths differ
inline void check_complete(const DefenseReport& report) {
  const metrics::AttackMetrics& before = report.before;
  const metrics::AttackMetrics& after = report.after;
  const bool has_metrics = before.classes != 0 || after.classes != 0;
  if (!has_metrics && !report.alarm && !report.agreement && report.scan.empty()) {
    throw Error(
        "DefenseReport: nothing was measured (metrics of 0 classes, no alarm, agreement or scan); set at least one");
  }
  if (has_metrics && (before.classes < 1 || before.classes != after.classes ||
                      before.target != after.target || before.ba.n != after.ba.n)) {
    throw Error(
        "DefenseReport: before and after must have the same classes, images and target, "
        "got {} classes and {} images before, {} and {} after; measure both on the same test set under the same attack",
        before.classes, before.ba.n, after.classes, after.ba.n);
  }
  if (has_metrics) before.target.require_valid(before.classes);
  const auto classes = static_cast<std::size_t>(class_count(report));
  for (const metrics::ScanEntry& entry : report.scan) {
    if (entry.before.size() == classes && entry.after.size() == classes &&
        (entry.gated.empty() || entry.gated.size() == classes)) {
      continue;
    }
    throw Error(
        "DefenseReport: scan entry '{}' must have one lift for each of {} classes, got {} before and {} after",
        entry.trigger, classes, entry.before.size(), entry.after.size());
  }
  if (!report.class_names.empty() && report.class_names.size() != classes) {
    throw Error("DefenseReport: got {} class names for {} classes; set one for each class, or none",
                report.class_names.size(), classes);
  }
  for (const int cls : report.lost_classes) {
    if (cls >= 0 && (classes == 0 || static_cast<std::size_t>(cls) < classes)) continue;
    throw Error("DefenseReport: lost_classes must be classes of the report, which has {}, got {}", classes,
                cls);
  }
  for (const Curve& curve : report.curves) {
    if (curve.x.size() == curve.y.size()) continue;
    throw Error("DefenseReport: curve '{}' must have one y for each x, got {} x and {} y", curve.name,
                curve.x.size(), curve.y.size());
  }
  if (report.answer == Answer::gated && !report.gated)
    throw Error("DefenseReport: the gated answer is served, but was not measured; set gated");
  if (report.gated) {
    const metrics::AttackMetrics& gated = report.gated->metrics;
    if (gated.classes != after.classes || gated.ba.n != after.ba.n || gated.target != after.target) {
      throw Error(
          "DefenseReport: gated must have the same classes, images and target as after, got {} classes and {} "
          "images, expected {} and {}",
          gated.classes, gated.ba.n, after.classes, after.ba.n);
    }
  }
  check_complete(report.sheet);
}

}  // namespace refine::report
