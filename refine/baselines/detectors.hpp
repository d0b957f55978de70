#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/special_entr.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Device.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/nn/device.hpp>

/// \file
/// Detectors of triggered images. Each is a `DefendedClassifier` whose answers are the victim's and
/// whose `alarm` is the detector's score, so that `evaluate_alarm` measures it:
///
///     const baselines::ScaleUp detector{freeze(victim)};
///     metrics::AlarmMetrics metrics = evaluate_alarm(detector, calibration, clean, triggered);

namespace refine::baselines {

namespace detail {

/// What the detectors have in common: the victim, which answers.
template <backbones::Backbone V>
struct Detector {
  V victim;  ///< the classifier, in evaluation mode

  /// Returns the victim's task.
  Task task() const { return victim.task; }

  /// Returns the victim's device.
  at::Device device() const { return nn::device_of(*victim.module).value_or(at::kCPU); }

  /// Returns the victim's logits, N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return victim.forward(images); }

  /// Returns the victim's logits, N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor undefended(const at::Tensor& images) const { return victim.forward(images); }

  /// Returns the images unchanged.
  at::Tensor transformed(const at::Tensor& images) const { return images; }
};

/// Returns for each row of logits whether it has no softmax, since a logit is NaN or +∞, or all are −∞.
inline at::Tensor lacks_softmax(const at::Tensor& logits) {
  return at::softmax(logits, 1).isnan().any(1);
}

}  // namespace detail

/// Adds clean images to each image: the answer to a triggered image stays sure (STRIP; Gao et al.,
/// 2019, `gao2019strip`).
///
/// \tparam V the victim
template <backbones::Backbone V>
class Strip : public detail::Detector<V> {
 public:
  /// \param victim the classifier, in evaluation mode
  /// \param overlays uint8 K×C×H×W, one or more clean images. The paper takes 100; each costs one
  ///   pass of the victim over all images.
  /// \throws Error if the overlays do not fit the victim
  Strip(V victim, const at::Tensor& overlays) : detail::Detector<V>{std::move(victim)}, overlays_(overlays) {
    data::check_images("overlays", this->victim.task.image, overlays);
    if (overlays.size(0) < 1) throw Error("Strip: no overlays; give one or more clean images");
  }

  /// Returns 1 − H/log(classes), with the entropy H of the victim's answers averaged over the
  /// overlays: 1 if every sum of images is answered with certainty.
  ///
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return float N in [0, 1]; infinity where logits have no softmax
  at::Tensor alarm(const at::Tensor& images) const {
    at::Tensor entropy = at::zeros({images.size(0)}, images.options());
    double classes = 2;
    for (std::int64_t k = 0; k < overlays_.size(0); ++k) {
      const at::Tensor overlay = data::to_float(overlays_.narrow(0, k, 1), images.device());
      const at::Tensor logits = this->victim.forward((images + overlay).clamp(0, 1));
      classes = static_cast<double>(logits.size(1));
      entropy += at::special_entr(at::softmax(logits, 1)).sum(1);  // 0 for a class that −∞ rules out
    }
    const double highest = static_cast<double>(overlays_.size(0)) * std::log(classes);
    const at::Tensor score = (1 - entropy / highest).clamp(0, 1);
    return score.masked_fill(score.isnan(), std::numeric_limits<double>::infinity());
  }

 private:
  at::Tensor overlays_;
};

/// Multiplies the pixels: the answer to a triggered image stays the same (SCALE-UP; Guo et al., 2023,
/// `guo2023scaleup`, without clean images).
///
/// \tparam V the victim
template <backbones::Backbone V>
class ScaleUp : public detail::Detector<V> {
 public:
  /// \param victim the classifier, in evaluation mode
  /// \param factors of the pixels, each above 1; the default is the paper's
  /// \throws Error if there are no factors, or one is not above 1
  explicit ScaleUp(V victim, std::vector<double> factors = {3, 5, 7, 9, 11})
      : detail::Detector<V>{std::move(victim)}, factors_(std::move(factors)) {
    if (factors_.empty()) throw Error("ScaleUp: no factors; give one or more, such as 3");
    for (const double factor : factors_) {
      if (!(factor > 1 && std::isfinite(factor)))
        throw Error("ScaleUp: each factor must be above 1 and finite, got {}", factor);
    }
  }

  /// Returns the share of factors for which the victim predicts the same class as for the image
  /// itself. Values that exceed 1 are clamped.
  ///
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return float N in [0, 1]; infinity where logits have no softmax
  at::Tensor alarm(const at::Tensor& images) const {
    const at::Tensor logits = this->victim.forward(images), classes = logits.argmax(1);
    at::Tensor same = at::zeros({images.size(0)}, images.options()), lacks = detail::lacks_softmax(logits);
    for (const double factor : factors_) {
      const at::Tensor bright = this->victim.forward((images * factor).clamp(0, 1));
      same += bright.argmax(1).eq(classes);
      lacks.logical_or_(detail::lacks_softmax(bright));
    }
    return (same / static_cast<double>(factors_.size()))
        .masked_fill(lacks, std::numeric_limits<double>::infinity());
  }

 private:
  std::vector<double> factors_;
};

}  // namespace refine::baselines
