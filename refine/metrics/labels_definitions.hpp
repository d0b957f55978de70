#pragma once

// What labels.hpp declares.

#include <refine/metrics/labels.hpp>

#include <cstddef>
#include <string_view>

#include <refine/core/compiled.hpp>

namespace refine::metrics {

REFINE_DEFINITION void require_labels(std::string_view what, Labels labels, std::size_t count, int classes) {
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
