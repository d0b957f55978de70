#pragma once

#include <Eigen/Core>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>

namespace refine::metrics {

/// Class numbers, one an image.
using Labels = std::span<const std::int64_t>;

/// \throws Error unless there are `count` labels, all of them in [0, classes). `what` names them: "the clean
/// predictions".
void require_labels(std::string_view what, Labels labels, std::size_t count, int classes);

/// What a classifier said of a test set: one entry an image, in the same order in all three. Triggered
/// predictions are of all the images; those of the target class are left out of the attack's figures here.
struct Predictions {
  std::vector<std::int64_t> truth = {};
  std::vector<std::int64_t> clean = {};
  std::vector<std::int64_t> triggered = {};
  int classes = 0;
  std::optional<int> target = std::nullopt;  ///< none: no attack, or one without a single target
};

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

inline void require_labels(std::string_view what, Labels labels, std::size_t count, int classes) {
  if (classes < 1) throw Error("cannot count {}: {} classes were said, at least 1 is needed", what, classes);
  if (labels.size() != count) {
    throw Error(
        "cannot count {}: there are {} of them for {} test images; give one for each image, in one order",
        what, labels.size(), count);
  }
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= classes) {
      throw Error("cannot count {}: number {} is class {}, outside 0 to {}; check the number of classes",
                  what, i, labels[i], classes - 1);
    }
  }
}

}  // namespace refine::metrics
