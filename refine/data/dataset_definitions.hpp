#pragma once

// What dataset.hpp declares.

#include <refine/data/dataset.hpp>

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <refine/core/compiled.hpp>
#include <refine/core/random.hpp>
#include <refine/core/seed.hpp>

namespace refine::data {

REFINE_DEFINITION ImageShape image_of(const at::Tensor& images) {
  if (images.dim() != 4)
    throw Error("refine: images are N×C×H×W, these have {} dimensions; reshape them", images.dim());
  return {static_cast<int>(images.size(1)), static_cast<int>(images.size(2)),
          static_cast<int>(images.size(3))};
}

REFINE_DEFINITION Dataset Dataset::select(const at::Tensor& indices) const {
  return {images.index_select(0, indices), labels.index_select(0, indices), classes};
}

REFINE_DEFINITION Dataset Dataset::first(std::int64_t n) const {
  require_at_least(n);
  return {images.narrow(0, 0, n), labels.narrow(0, 0, n), classes};
}

REFINE_DEFINITION Dataset Dataset::sample(std::int64_t n, std::uint64_t seed) const {
  return select(drawn(n, seed));
}

REFINE_DEFINITION at::Tensor Dataset::drawn(std::int64_t n, std::uint64_t seed) const {
  require_at_least(n);
  Random random(derived_seed(seed, "sample"));
  auto indices = random_permutation(random, size());
  indices.resize(static_cast<std::size_t>(n));
  std::sort(indices.begin(), indices.end());
  return at::tensor(indices);
}

REFINE_DEFINITION void Dataset::validate() const {
  if (!images.defined() || images.dim() != 4 || images.scalar_type() != at::kByte) {
    throw Error("bad dataset: images are not an N×C×H×W tensor of bytes; convert them with data::to_bytes");
  }
  if (!labels.defined() || labels.dim() != 1 || labels.scalar_type() != at::kLong) {
    throw Error("bad dataset: labels are not one int64 an image; convert them with labels.to(at::kLong)");
  }
  if (labels.size(0) != size()) {
    throw Error("bad dataset: {} images but {} labels; give each image one label", size(), labels.size(0));
  }
  if (size() == 0) return;
  const auto low = labels.min().item<std::int64_t>(), high = labels.max().item<std::int64_t>();
  if (low < 0 || high >= static_cast<std::int64_t>(classes.size())) {
    throw Error(
        "bad dataset: labels run from {} to {} but there are {} classes; count labels from 0 and name "
        "every class",
        low, high, classes.size());
  }
}

REFINE_DEFINITION void Dataset::require_at_least(std::int64_t n) const {
  if (n < 0 || n > size()) {
    throw Error("cannot take {} images: the dataset has {}; ask for 0 to {}", n, size(), size());
  }
}

}  // namespace refine::data
