#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>

namespace refine::data {

/// The shape of the images of an N×C×H×W tensor. \throws Error when it has other dimensions
ImageShape image_of(const at::Tensor& images);

/// Labelled images on the host. Copies share their pixels; `select`, `first` and `sample` make new ones.
struct Dataset {
  at::Tensor images;                 ///< uint8, N×C×H×W, RGB, 0–255
  at::Tensor labels;                 ///< int64, N, each in [0, classes.size())
  std::vector<std::string> classes;  ///< the name of each class, in label order

  std::int64_t size() const { return images.defined() ? images.size(0) : 0; }

  /// All `dynamic` while there are no images.
  ImageShape image() const { return images.defined() ? image_of(images) : ImageShape{}; }

  Task task() const { return {image(), static_cast<int>(classes.size())}; }

  /// The images at `indices` (int64, any order, repeats welcome), with their labels.
  Dataset select(const at::Tensor& indices) const;

  /// The first `n` images: a view, no copy. \throws Error when there are fewer.
  Dataset first(std::int64_t n) const;

  /// `n` images drawn without replacement; the same ones for the same seed, in their old order.
  /// \throws Error when there are fewer.
  Dataset sample(std::int64_t n, std::uint64_t seed) const;

  /// \throws Error when the fields do not fit together as said above.
  void validate() const;

 protected:
  void require_at_least(std::int64_t n) const;

  /// The indices of the images that `sample` takes.
  at::Tensor drawn(std::int64_t n, std::uint64_t seed) const;
};

/// What every source of images gives: `auto [train, test] = data::cifar10("data/CIFAR10");`
struct Split {
  Dataset train;
  Dataset test;
};

inline ImageShape image_of(const at::Tensor& images) {
  if (images.dim() != 4)
    throw Error("images are N×C×H×W, these have {} dimensions; reshape them", images.dim());
  return {static_cast<int>(images.size(1)), static_cast<int>(images.size(2)),
          static_cast<int>(images.size(3))};
}

inline Dataset Dataset::select(const at::Tensor& indices) const {
  return {images.index_select(0, indices), labels.index_select(0, indices), classes};
}

inline Dataset Dataset::first(std::int64_t n) const {
  require_at_least(n);
  return {images.narrow(0, 0, n), labels.narrow(0, 0, n), classes};
}

inline Dataset Dataset::sample(std::int64_t n, std::uint64_t seed) const {
  return select(drawn(n, seed));
}

inline at::Tensor Dataset::drawn(std::int64_t n, std::uint64_t seed) const {
  require_at_least(n);
  Random random(derived_seed(seed, "sample"));
  auto indices = random_permutation(random, size());
  indices.resize(static_cast<std::size_t>(n));
  std::sort(indices.begin(), indices.end());
  return at::tensor(indices);
}

inline void Dataset::validate() const {
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

inline void Dataset::require_at_least(std::int64_t n) const {
  if (n < 0 || n > size()) {
    throw Error("cannot take {} images: the dataset has {}; ask for 0 to {}", n, size(), size());
  }
}

}  // namespace refine::data
