#pragma once

// What figures.hpp declares.

#include <refine/metrics/figures.hpp>

#include <refine/core/compiled.hpp>

namespace refine::metrics {

REFINE_DEFINITION Figures figures(const Predictions& p) {
  Figures result{.classes = p.classes, .target = p.target};
  result.lifts = lifts(p.truth, p.clean, p.triggered, p.classes, p.target);
  result.largest_lift = largest_lift(result.lifts);
  result.clean = confusion_matrix(p.truth, p.clean, p.classes);
  result.triggered = confusion_matrix(p.truth, p.triggered, p.classes);
  result.ba = {.hits = result.clean.trace(), .n = result.clean.sum()};
  result.ra = {.hits = result.triggered.trace(), .n = result.triggered.sum()};
  if (p.target) {
    const int t = *p.target;
    result.ra.hits -= result.triggered(t, t);
    result.ra.n -= result.triggered.row(t).sum();
    result.asr = {.hits = result.triggered.col(t).sum() - result.triggered(t, t), .n = result.ra.n};
  }
  return result;
}

}  // namespace refine::metrics
