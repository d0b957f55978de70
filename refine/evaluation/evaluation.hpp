#pragma once

#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/bench.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/evaluation/gated.hpp>
#include <refine/evaluation/scan.hpp>

/// \file
/// All of evaluation. It runs victims and defended models (concept `DefendedClassifier`) on images
/// and returns the values of `refine::metrics`: `evaluate` with an attack or with triggered images,
/// `evaluate_clean` with labels only, and `label_agreement`, `evaluate_alarm` and `scan` with
/// neither labels nor a known attack. `bench` measures
/// what answers cost.
///
///     const Evaluation result = evaluate(defense, test, attack);
///     const metrics::Proportion agreement = label_agreement(defense, clean_images);
///     for (const metrics::ScanEntry& entry : scan(defense, clean_images)) {
///       const metrics::Lift lift = metrics::max_lift_by_share(entry.before);
///       if (lift.interval().low > 0.5) std::cout << entry.trigger << " lifts class " << lift.cls << '\n';
///     }
