#pragma once

#include <Eigen/Core>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/target.hpp>

namespace refine::metrics {

/// Class numbers, one per image.
using Labels = std::span<const std::int64_t>;

/// A classifier's predictions for a test set: one entry per image, in the same order in all three
/// vectors. Triggered predictions cover all images; `AttackMetrics` says which of them each figure
/// takes.
struct Predictions {
  std::vector<std::int64_t> truth = {};      ///< true classes
  std::vector<std::int64_t> clean = {};      ///< classes predicted without the trigger
  std::vector<std::int64_t> triggered = {};  ///< classes predicted with the trigger
  int classes = 0;                           ///< number of classes
  Target target = {};                        ///< the attack's target class; empty if it has none
};

namespace detail {

/// Throws unless there are `count` labels, all of them in [0, classes). `what` names them: "clean
/// predictions".
inline void require_labels(std::string_view what, Labels labels, std::size_t count, int classes) {
  if (classes < 1) throw Error("{}: number of classes must be at least 1, got {}", what, classes);
  if (labels.size() != count) {
    throw Error("{}: wrong number (got {}, expected {}); give one per test image, in the same order", what,
                labels.size(), count);
  }
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= classes) {
      throw Error(
          "{}: class of image {} is out of range (got {}, expected 0 to {}); check the number of classes",
          what, i, labels[i], classes - 1);
    }
  }
}

}  // namespace detail

/// Counts of images: a row per true class, a column per predicted class.
using ConfusionMatrix = Eigen::Matrix<std::int64_t, Eigen::Dynamic, Eigen::Dynamic>;

/// Counts the predictions of each class for the images of each class.
///
/// \param truth true classes
/// \param predictions predicted classes, in the same order
/// \param classes number of classes, at least 1
/// \return classes × classes
/// \throws Error if the lengths differ or a class is not in [0, classes)
inline ConfusionMatrix confusion_matrix(Labels truth, Labels predictions, int classes) {
  detail::require_labels("true labels", truth, truth.size(), classes);
  detail::require_labels("predictions", predictions, truth.size(), classes);
  ConfusionMatrix counts = ConfusionMatrix::Zero(classes, classes);
  for (std::size_t i = 0; i < truth.size(); ++i) ++counts(truth[i], predictions[i]);
  return counts;
}

}  // namespace refine::metrics
