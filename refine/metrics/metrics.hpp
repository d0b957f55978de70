#pragma once

/// \namespace refine::metrics
/// Metrics from predictions and scores: accuracies, attack success, the lift of every class, AUROC,
/// each with a confidence interval. Plain counts and Eigen matrices; no LibTorch header is
/// included.
///
/// ```cpp
/// const refine::metrics::AttackMetrics m = refine::metrics::attack_metrics(
///     {.truth = truth, .clean = clean, .triggered = triggered, .classes = 10, .target = 0});
/// m.asr.value();                  // attack success rate
/// m.largest_lift.interval().low;  // above 0: the trigger still works, on class m.largest_lift.cls
/// ```

#include <refine/metrics/attack_metrics.hpp>
#include <refine/metrics/confusion.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/metrics/quantile.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/metrics/target.hpp>
