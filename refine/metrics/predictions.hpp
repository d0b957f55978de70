#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace refine::metrics {

/// What a classifier said of a test set: one entry an image, in the same order in all three. Triggered
/// predictions are of all the images; those of the target class are left out of the attack's figures here.
struct Predictions {
  std::vector<std::int64_t> truth = {};
  std::vector<std::int64_t> clean = {};
  std::vector<std::int64_t> triggered = {};
  int classes = 0;
  std::optional<int> target = std::nullopt;  ///< none: no attack, or one without a single target
};

}  // namespace refine::metrics
