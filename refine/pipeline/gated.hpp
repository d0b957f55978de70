#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>
#include <c10/core/Device.h>

#include <utility>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// Returns the gated answer: the victim's logits where the alarm is silent, the defended ones where
/// it is raised. A score that is not a number raises it.
/// \param undefended logits N×classes
/// \param defended logits N×classes, with the same order of classes
/// \param threshold scores above it raise the alarm, in [0, 1]
/// \return logits N×classes
inline at::Tensor gated_answer(const at::Tensor& undefended, const at::Tensor& defended, double threshold) {
  const at::Tensor is_silent = alarm_score(undefended, defended).le(threshold).unsqueeze(1);
  return at::where(is_silent, undefended, defended);
}

/// A defended classifier that serves the victim's answer where the alarm is silent, and the defended
/// one where it is raised.
///
/// ```cpp
/// Gated gated{defense, alarm.threshold};
/// at::Tensor logits = gated.forward(images);
/// std::cout << evaluate(gated, test, attack);
/// export_torchscript(gated, "gated.pt");
/// ```
///
/// On clean images, it differs from the victim at most where the alarm is raised, so that the
/// accuracy lost is bounded by the share of false alarms. It trusts the alarm: an attacker whose
/// trigger does not raise it gets the victim's answer. An image costs as much as the alarm does: the
/// victim twice and the transform once.
///
/// The gate is `alarm_score`, so a detector whose `alarm` is another score cannot be gated.
///
/// To reject suspicious images instead, compare `alarm(images)` with the threshold.
///
/// \tparam D the defended classifier
template <DefendedClassifier D>
class Gated {
 public:
  /// \param defense the defended classifier
  /// \param threshold scores above it raise the alarm, in [0, 1], as `calibrate_alarm` returns it
  /// \throws Error if the threshold is out of range
  Gated(D defense, double threshold) : defense_(std::move(defense)), threshold_(threshold) {
    if (!(threshold >= 0 && threshold <= 1)) {
      throw Error("Gated: the alarm's threshold must be in [0, 1], got {}; calibrate it on clean images",
                  threshold);
    }
  }

  /// Returns the task of the defense.
  Task task() const { return defense_.task(); }

  /// Returns the device of the defense.
  at::Device device() const { return defense_.device(); }

  /// Returns the gated logits.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N×classes
  at::Tensor forward(const at::Tensor& images) const {
    return gated_answer(defense_.undefended(images), defense_.forward(images), threshold_);
  }

  /// Returns the victim's logits.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N×classes
  at::Tensor undefended(const at::Tensor& images) const { return defense_.undefended(images); }

  /// Returns the output of the transform.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return as `D::transformed`
  at::Tensor transformed(const at::Tensor& images) const { return defense_.transformed(images); }

  /// Returns the alarm scores of the defense; those above `threshold()` raise the alarm.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N scores in [0, 1], or infinity (`alarm_score`)
  at::Tensor alarm(const at::Tensor& images) const { return defense_.alarm(images); }

  /// Returns the parts of the defense, with the threshold: exporters write the gated answer as the one
  /// that is served, and the defended one beside it.
  ServedParts served_parts() const requires ServableDefense<D> {
    ServedParts parts = defense_.served_parts();
    parts.alarm_threshold = threshold_;
    return parts;
  }

  const D& defense() const { return defense_; }    ///< Returns the defended classifier.
  double threshold() const { return threshold_; }  ///< Returns the alarm's threshold.

 private:
  D defense_;
  double threshold_;
};

}  // namespace refine
