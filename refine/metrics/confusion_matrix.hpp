#pragma once

#include <Eigen/Core>

#include <cstddef>
#include <cstdint>

#include <refine/metrics/labels.hpp>

namespace refine::metrics {

/// Counts, classes × classes: a row for each true class, a column for each predicted one.
using ConfusionMatrix = Eigen::Matrix<std::int64_t, Eigen::Dynamic, Eigen::Dynamic>;

/// \throws Error when the lengths differ or a label lies outside [0, classes)
inline ConfusionMatrix confusion_matrix(Labels truth, Labels predictions, int classes) {
  require_labels("the true labels", truth, truth.size(), classes);
  require_labels("the predictions", predictions, truth.size(), classes);
  ConfusionMatrix counts = ConfusionMatrix::Zero(classes, classes);
  for (std::size_t i = 0; i < truth.size(); ++i) ++counts(truth[i], predictions[i]);
  return counts;
}

}  // namespace refine::metrics
