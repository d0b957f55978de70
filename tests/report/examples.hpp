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

/// Returns the answers of a victim and of its defense to 100 images of two classes, half of each. The
/// trigger sends the victim to class 1. The defense gives 10 images of class 0 the wrong class, with and
/// without the trigger. The alarm is raised (0.8 against 0.1) by these 10 and by 40 of the 50 triggered
/// images of class 0, these 10 among them.
inline metrics::GatedAnswers gated_answers() {
  metrics::GatedAnswers answers{.triggered = metrics::PairedAnswers{}, .classes = 2, .target = 1};
  for (int i = 0; i < 100; ++i) {
    const int truth = i < 50 ? 0 : 1;
    answers.truth.push_back(truth);
    answers.clean.victim.push_back(truth);
    answers.clean.defended.push_back(i < 10 ? 1 : truth);
    answers.clean.scores.push_back(i < 10 ? 0.8 : 0.1);
    answers.triggered->victim.push_back(1);
    answers.triggered->defended.push_back(i < 10 ? 1 : truth);
    answers.triggered->scores.push_back(i < 40 ? 0.8 : 0.1);
  }
  return answers;
}

/// Returns the report of these answers, at a threshold of 0.5.
inline DefenseReport gated_report(Answer answer = Answer::defended) {
  const metrics::GatedAnswers answers = gated_answers();
  return {.class_names = {"cat", "ship"},
          .before = metrics::victim_metrics(answers),
          .after = metrics::defended_metrics(answers),
          .alarm = metrics::alarm_metrics(answers.clean.scores, answers.triggered->scores, 0.5, 0.1),
          .agreement = metrics::share_equal(answers.clean.victim, answers.clean.defended),
          .gated = metrics::gated_metrics(answers, 0.5),
          .answer = answer};
}

}  // namespace refine::report
