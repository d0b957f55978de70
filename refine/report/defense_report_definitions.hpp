#pragma once

// What defense_report.hpp declares.

#include <refine/report/defense_report.hpp>

#include <cstddef>

#include <refine/core/compiled.hpp>

namespace refine::report {

REFINE_DEFINITION int classes_of(const DefenseReport& r) {
  if (r.after.classes > 0) return r.after.classes;
  return static_cast<int>(r.scan.empty() ? r.class_names.size() : r.scan.front().before.size());
}

REFINE_DEFINITION bool has_trigger(const DefenseReport& r) {
  return r.before.largest_lift.n > 0 && r.after.largest_lift.n > 0;
}

REFINE_DEFINITION void require_complete(const DefenseReport& r) {
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
