#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/metrics/confusion.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/metrics/target.hpp>

namespace refine {

/// Which answer of a defended classifier is served.
enum class Answer {
  defended,  ///< the defended one, to every image
  gated,     ///< the victim's where the alarm is silent, the defended one where it is raised
};

/// Returns "defended" or "gated".
constexpr std::string_view to_text(Answer answer) {
  return answer == Answer::gated ? "gated" : "defended";
}

/// Returns the answer of a name that `to_text` returned; nothing for another text.
constexpr std::optional<Answer> parse_answer(std::string_view name) {
  for (const Answer answer : {Answer::defended, Answer::gated}) {
    if (name == to_text(answer)) return answer;
  }
  return std::nullopt;
}

}  // namespace refine

namespace refine::metrics {

/// What a victim and its defense answer to the same images, and how much they disagree.
struct PairedAnswers {
  std::vector<std::int64_t> victim = {};    ///< classes that the victim predicts
  std::vector<std::int64_t> defended = {};  ///< classes that the defense predicts
  std::vector<double> scores = {};          ///< alarm scores in [0, 1], or infinity; not NaN

  /// Returns the classes of the gated answer: the victim's where the score is at most `threshold`,
  /// else the defended one.
  /// \throws Error if the lengths differ
  std::vector<std::int64_t> gated(double threshold) const {
    if (victim.size() != defended.size() || victim.size() != scores.size()) {
      throw Error(
          "PairedAnswers: victim, defended and scores must have one entry per image (got {}, {} and {})",
          victim.size(), defended.size(), scores.size());
    }
    std::vector<std::int64_t> classes = victim;
    for (std::size_t i = 0; i < classes.size(); ++i) {
      if (!(scores[i] <= threshold)) classes[i] = defended[i];
    }
    return classes;
  }
};

/// The answers from which the metrics of the gated answer are computed.
struct GatedAnswers {
  PairedAnswers clean = {};                               ///< to clean images
  std::optional<PairedAnswers> triggered = std::nullopt;  ///< to the same images with the trigger
  std::vector<std::int64_t> truth = {};                   ///< true classes; empty: no labels
  int classes = 0;                                        ///< number of classes
  Target target = {};                                     ///< class that the attacker wants
};

/// The gated answer at one threshold of the alarm.
struct GatedPoint {
  double threshold = 1;             ///< scores above it raise the alarm; -1: all images do
  Proportion alarms = {};           ///< clean images that raise the alarm
  Proportion agreement = {};        ///< clean images that get the victim's class
  Proportion ba = {};               ///< as in `AttackMetrics`; 0 of 0 without labels
  Proportion asr = {};              ///< as in `AttackMetrics`; 0 of 0 without triggered images or target
  Lift largest_lift = {};           ///< as in `AttackMetrics`; `n` is 0 without triggered images
  PairLift largest_pair_lift = {};  ///< likewise

  /// True if all fields are equal.
  friend bool operator==(const GatedPoint&, const GatedPoint&) = default;
};

/// The metrics of the gated answer.
///
/// It can lose no more clean accuracy than the share of `alarms`, and lets through what does not
/// raise the alarm: an attacker whose trigger stays below the threshold gets the victim's answer.
struct GatedMetrics {
  double threshold = 1;                ///< of the alarm
  Proportion alarms = {};              ///< clean images that raise the alarm
  Proportion agreement = {};           ///< clean images that get the victim's class
  AttackMetrics metrics = {};          ///< with 0 classes, not measured: no labels
  std::vector<GatedPoint> curve = {};  ///< from no false alarm to all; the share of alarms increases
};

/// Returns the share of images to which two classifiers give the same class.
/// \param a,b classes, in the same order
/// \throws Error if the lengths differ
inline Proportion share_equal(Labels a, Labels b) {
  if (a.size() != b.size())
    throw Error("share_equal: the lists of classes must have the same length, got {} and {}", a.size(),
                b.size());
  Proportion equal{.n = static_cast<std::int64_t>(a.size())};
  for (std::size_t i = 0; i < a.size(); ++i) equal.hits += a[i] == b[i];
  return equal;
}

namespace detail {

/// Returns the metrics of one classifier, with or without triggered images.
inline AttackMetrics metrics_of(const GatedAnswers& answers, std::vector<std::int64_t> clean,
                                std::vector<std::int64_t> triggered) {
  if (answers.triggered) {
    return attack_metrics({.truth = answers.truth,
                           .clean = std::move(clean),
                           .triggered = std::move(triggered),
                           .classes = answers.classes,
                           .target = answers.target});
  }
  AttackMetrics result{.classes = answers.classes};
  result.clean = confusion_matrix(answers.truth, clean, answers.classes);
  set_shares(result);
  return result;
}

/// Computes everything but the curve.
inline GatedMetrics gated_at(const GatedAnswers& answers, double threshold) {
  GatedMetrics result{.threshold = threshold};
  std::vector<std::int64_t> clean = answers.clean.gated(threshold);
  result.alarms = share_above(answers.clean.scores, threshold);
  result.agreement = share_equal(clean, answers.clean.victim);
  if (!answers.truth.empty()) {
    result.metrics =
        metrics_of(answers, std::move(clean),
                   answers.triggered ? answers.triggered->gated(threshold) : std::vector<std::int64_t>{});
  }
  return result;
}

}  // namespace detail

/// Returns the metrics of the victim alone.
/// \param answers with labels
/// \throws Error as `gated_metrics`
inline AttackMetrics victim_metrics(const GatedAnswers& answers) {
  return detail::metrics_of(answers, answers.clean.victim,
                            answers.triggered ? answers.triggered->victim : std::vector<std::int64_t>{});
}

/// Returns the metrics of the defended answer.
/// \param answers with labels
/// \throws Error as `gated_metrics`
inline AttackMetrics defended_metrics(const GatedAnswers& answers) {
  return detail::metrics_of(answers, answers.clean.defended,
                            answers.triggered ? answers.triggered->defended : std::vector<std::int64_t>{});
}

/// Returns the metrics of the gated answer at a threshold, and its curve over thresholds: those at
/// which 0, 0.5, 1, 2, 5, 10, 20, 50 and 100 % of these clean images raise the alarm, unless ties
/// make two of them equal.
///
/// \param answers to clean images and, optionally, to triggered ones; with or without labels
/// \param threshold of the alarm, in [0, 1]
/// \throws Error if lengths differ, or a class or a target is not in [0, classes)
inline GatedMetrics gated_metrics(const GatedAnswers& answers, double threshold) {
  GatedMetrics result = detail::gated_at(answers, threshold);
  if (answers.clean.scores.empty()) return result;
  constexpr std::array rates = {0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0};
  for (const double rate : rates) {
    const double at_rate = rate < 1 ? std::min(threshold_for(answers.clean.scores, rate), 1.0) : -1.0;
    const GatedMetrics point = detail::gated_at(answers, at_rate);
    if (!result.curve.empty() && result.curve.back().alarms == point.alarms) continue;
    result.curve.push_back({.threshold = at_rate,
                            .alarms = point.alarms,
                            .agreement = point.agreement,
                            .ba = point.metrics.ba,
                            .asr = point.metrics.asr,
                            .largest_lift = point.metrics.largest_lift,
                            .largest_pair_lift = point.metrics.largest_pair_lift});
  }
  return result;
}

}  // namespace refine::metrics
