#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/report/detail/curve.hpp>
#include <refine/report/images.hpp>

namespace refine::report {

/// Everything a page about a defense says. One thing measured is enough: the figures before and after, or,
/// without labels and without a trigger, an alarm, an agreement or a scan.
struct DefenseReport {
  std::string title = {};
  std::string dataset = {};
  std::string model = {};
  std::string attack = {};
  std::vector<std::string> class_names = {};  ///< one a class, or none: they are numbered then
  metrics::AttackMetrics before = {};         ///< the victim; of 0 classes: not measured
  metrics::AttackMetrics after = {};          ///< the defended model, on the same images
  std::optional<metrics::AlarmFigures> alarm = std::nullopt;
  std::optional<metrics::Proportion> agreement =
      std::nullopt;                           ///< clean images that both call alike, before and after
  std::vector<metrics::ScanEntry> scan = {};  ///< guessed triggers
  std::vector<Curve> curves = {};
  std::vector<std::pair<std::string, std::string>> facts =
      {};  ///< recipe, seed, permutation, device, in order
  ImageSheet sheet = {};
};

/// Of whatever was measured; 0 where nothing says.
int classes_of(const DefenseReport& r);

/// Whether the figures of clean, labelled images are there.
inline bool has_labels(const DefenseReport& r) {
  return r.before.ba.n > 0 && r.after.ba.n > 0;
}

/// Whether the figures of triggered, labelled images are there.
bool has_trigger(const DefenseReport& r);

/// \throws Error when the parts do not fit together, or nothing was measured
void require_complete(const DefenseReport& r);

inline int classes_of(const DefenseReport& r) {
  if (r.after.classes > 0) return r.after.classes;
  return static_cast<int>(r.scan.empty() ? r.class_names.size() : r.scan.front().before.size());
}

inline bool has_trigger(const DefenseReport& r) {
  return r.before.largest_lift.n > 0 && r.after.largest_lift.n > 0;
}

inline void require_complete(const DefenseReport& r) {
  const bool figures = r.before.classes != 0 || r.after.classes != 0;
  if (!figures && !r.alarm && !r.agreement && r.scan.empty()) {
    throw Error(
        "cannot report: nothing was measured, its figures are of 0 classes; give it figures, an alarm, an "
        "agreement or a scan");
  }
  if (figures && (r.before.classes < 1 || r.before.classes != r.after.classes ||
                  r.before.target != r.after.target || r.before.ba.n != r.after.ba.n)) {
    throw Error(
        "cannot report: the figures before are of {} classes and {} images, those after of {} and {}, or "
        "their targets differ; measure both on the same test set under the same attack",
        r.before.classes, r.before.ba.n, r.after.classes, r.after.ba.n);
  }
  const auto classes = static_cast<std::size_t>(classes_of(r));
  for (const metrics::ScanEntry& entry : r.scan) {
    if (entry.before.size() == classes && entry.after.size() == classes) continue;
    throw Error("cannot report: the scan's '{}' has {} and {} lifts for {} classes; give one for each",
                entry.trigger, entry.before.size(), entry.after.size(), classes);
  }
  if (!r.class_names.empty() && r.class_names.size() != classes) {
    throw Error("cannot report: {} class names for {} classes; give one for each, or none",
                r.class_names.size(), classes);
  }
  for (const Curve& curve : r.curves) {
    if (curve.x.size() == curve.y.size()) continue;
    throw Error("cannot report: the curve '{}' has {} x and {} y; give one y for each x", curve.name,
                curve.x.size(), curve.y.size());
  }
  require_complete(r.sheet);
}

}  // namespace refine::report
