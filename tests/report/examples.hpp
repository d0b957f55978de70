#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// Returns the lifts of a guessed trigger that sends a share `moved_share` of the images of every
/// other class to `cls`. The victim predicts `per_class[c]` images as class c.
inline std::vector<metrics::Lift> guessed(const std::vector<std::int64_t>& per_class, int cls,
                                          double moved_share) {
  std::int64_t all = 0;
  for (const std::int64_t n : per_class) all += n;
  std::vector<metrics::Lift> lifts;
  for (int c = 0; c < static_cast<int>(per_class.size()); ++c) {
    const std::int64_t n = all - per_class[static_cast<std::size_t>(c)];
    const auto moved = c == cls ? static_cast<std::int64_t>(moved_share * static_cast<double>(n)) : 0;
    lifts.push_back({.cls = c, .with_trigger = moved, .gained = moved, .n = n});
  }
  return lifts;
}

/// Returns the report of a user who has a victim and clean images, but neither labels nor a
/// trigger: 3000 images of three classes. The checkerboard sends 97 % of them to “ship” before the
/// defense, and a share `after` of them after it.
inline DefenseReport unlabelled(double after = 0.004) {
  const std::vector<std::int64_t> per_class = {1000, 1000, 1000};
  return {.title = "An untrusted classifier",
          .model = "classifier.pt",
          .class_names = {"cat", "ship", "frog"},
          .alarm = metrics::AlarmMetrics{.threshold = 0.25, .wanted_rate = 0.05, .false_alarms = {153, 3000}},
          .agreement = metrics::Proportion{2880, 3000},
          .scan = {
              {"warp, strength 0.5", guessed(per_class, 2, 0.03), guessed(per_class, 0, 0.01), false},
              {"checkerboard 3×3, bottom right", guessed(per_class, 1, 0.97), guessed(per_class, 1, after)}}};
}

}  // namespace refine::report
