#pragma once

#include <ATen/core/Tensor.h>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>

#include <cstdint>
#include <string>
#include <vector>

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

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/dataset_definitions.hpp>
#endif
