#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// A victim that calls `own[c]` images c, and a guessed trigger that sends `to` of each other class to `cls`.
inline std::vector<metrics::Lift> guessed(const std::vector<std::int64_t>& own, int cls, double to) {
  std::int64_t all = 0;
  for (const std::int64_t n : own) all += n;
  std::vector<metrics::Lift> lifts;
  for (int c = 0; c < static_cast<int>(own.size()); ++c) {
    const std::int64_t n = all - own[static_cast<std::size_t>(c)];
    const auto moved = c == cls ? static_cast<std::int64_t>(to * static_cast<double>(n)) : 0;
    lifts.push_back({.cls = c, .with_trigger = moved, .gained = moved, .n = n});
  }
  return lifts;
}

/// What someone has who was handed a victim and clean images: neither labels nor a trigger. 3000 images of
/// three classes; the checkerboard sends 97 % to “ship” before, and `left` of them after.
inline DefenseReport unlabelled(double left = 0.004) {
  const std::vector<std::int64_t> own = {1000, 1000, 1000};
  return {.title = "A classifier that was handed over",
          .model = "classifier.pt",
          .class_names = {"cat", "ship", "frog"},
          .alarm = metrics::AlarmFigures{.threshold = 0.25, .wanted_rate = 0.05, .false_alarms = {153, 3000}},
          .agreement = metrics::Proportion{2880, 3000},
          .scan = {{"warp, strength 0.5", guessed(own, 2, 0.03), guessed(own, 0, 0.01), false},
                   {"checkerboard 3×3, bottom right", guessed(own, 1, 0.97), guessed(own, 1, left)}}};
}

}  // namespace refine::report
