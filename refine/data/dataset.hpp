#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>

namespace refine::data {

/// Returns the shape of one image of a tensor N×C×H×W.
/// \throws Error if `images` does not have four dimensions
inline ImageShape image_shape_of(const at::Tensor& images) {
  if (images.dim() != 4) {
    throw Error("images: wrong number of dimensions (got {}, expected 4); reshape them to N×C×H×W",
                images.dim());
  }
  return {static_cast<int>(images.size(1)), static_cast<int>(images.size(2)),
          static_cast<int>(images.size(3))};
}

/// Checks images without labels.
/// \param name their name in messages: "clean images"
/// \param expected the shape of one image; `dynamic` extents fit any
/// \param images what is checked
/// \throws Error if they are not uint8 N×C×H×W of this shape
inline void check_images(std::string_view name, const ImageShape& expected, const at::Tensor& images) {
  if (!images.defined() || images.dim() != 4 || images.scalar_type() != at::kByte)
    throw Error("{}: must be uint8 N×C×H×W; convert them with data::to_bytes", name);
  const ImageShape shape = image_shape_of(images);
  if (compatible(expected, shape)) return;
  Message why;
  require_agreement(why << name << ": wrong shape (got " << shape << ", expected " << expected
                        << "); resize them to the expected shape");
}

/// Returns a copy of some images, evenly spread over all of them: the first ones of a folder may be of one class.
/// \param images N×C×H×W
/// \param n wanted images, 0 or more; if there are fewer, all are returned, not copied
inline at::Tensor evenly_spread(const at::Tensor& images, std::int64_t n) {
  const std::int64_t size = images.size(0);
  if (size <= n) return images;
  std::vector<std::int64_t> places;
  for (std::int64_t i = 0; i < n; ++i) places.push_back(i * size / n);
  return images.index_select(0, at::tensor(places, at::kLong));
}

/// Labelled images on the host. Copies share their pixels.
struct Dataset {
  at::Tensor images;                 ///< uint8, N×C×H×W, RGB or grey, 0–255
  at::Tensor labels;                 ///< int64, N, each in [0, classes.size())
  std::vector<std::string> classes;  ///< names of the classes, in label order

  /// Returns the number of images; 0 if `images` is undefined.
  std::int64_t size() const { return images.defined() ? images.size(0) : 0; }

  /// Returns the shape of one image; every extent is `dynamic` if `images` is undefined.
  ImageShape image_shape() const { return images.defined() ? image_shape_of(images) : ImageShape{}; }

  /// Returns the image shape and the number of classes.
  Task task() const { return {image_shape(), static_cast<int>(classes.size())}; }

  /// Returns a copy of the images at the given positions, with their labels.
  /// \param indices int64, in any order, with or without repeats
  Dataset select(const at::Tensor& indices) const {
    return {images.index_select(0, indices), labels.index_select(0, indices), classes};
  }

  /// Returns the first images as a view.
  /// \param n number of images, in [0, size()]
  /// \throws Error if there are fewer than `n`
  Dataset first(std::int64_t n) const {
    check_count(n);
    return {images.narrow(0, 0, n), labels.narrow(0, 0, n), classes};
  }

  /// Returns a copy of images that are drawn without replacement, in stored order.
  /// \param n number of images, in [0, size()]
  /// \param seed the same seed draws the same images
  /// \throws Error if there are fewer than `n`
  Dataset sample(std::int64_t n, std::uint64_t seed) const { return select(sample_indices(n, seed)); }

  /// Checks that types, dimensions, sizes and label range are as the fields' comments require.
  /// \throws Error if they are not
  void validate() const;

 protected:
  /// Throws an `Error` if `n` is not in [0, size()].
  void check_count(std::int64_t n) const {
    if (n < 0 || n > size()) {
      throw Error("dataset: cannot take {} images, it has {}; request 0 to {}", n, size(), size());
    }
  }

  /// Returns the positions of the images that `sample` draws, ascending.
  at::Tensor sample_indices(std::int64_t n, std::uint64_t seed) const {
    check_count(n);
    Random random(derived_seed(seed, "sample"));
    auto indices = random_permutation(random, size());
    indices.resize(static_cast<std::size_t>(n));
    std::sort(indices.begin(), indices.end());
    return at::tensor(indices);
  }
};

/// The two parts of a source of images: `auto [train, test] = data::cifar10("data/CIFAR10");`
struct Split {
  Dataset train;  ///< images to train on
  Dataset test;   ///< images to measure on
};

/// Converts pixels from bytes to floats in [0, 1]: v / 255 (on CUDA the last bit may differ).
///
/// The bytes are transferred, not the floats.
/// \param bytes uint8, of any shape; memory format and shape are kept
/// \param device of the result
/// \throws Error if `bytes` is not uint8
inline at::Tensor to_float(const at::Tensor& bytes, at::Device device = at::kCPU) {
  if (bytes.scalar_type() != at::kByte) {
    throw Error(
        "images: wrong type (expected bytes, 0 to 255); convert floats in [0, 1] with data::to_bytes");
  }
  return bytes.to(device).to(at::kFloat).div_(255);
}

/// Converts pixels from floats to bytes, on their device: the inverse of `to_float`.
/// \param images any floating-point type; values are clamped to [0, 1] and rounded to the nearest
///   of 256 levels
inline at::Tensor to_bytes(const at::Tensor& images) {
  return at::clamp(images.detach().to(at::kFloat), 0, 1).mul_(255).round_().to(at::kByte);
}

inline void Dataset::validate() const {
  if (!images.defined() || images.dim() != 4 || images.scalar_type() != at::kByte) {
    throw Error("dataset.images: must be an N×C×H×W tensor of bytes; convert floats with data::to_bytes");
  }
  if (!labels.defined() || labels.dim() != 1 || labels.scalar_type() != at::kLong) {
    throw Error(
        "dataset.labels: must be an int64 tensor of one dimension; convert them with labels.to(at::kLong)");
  }
  if (labels.size(0) != size()) {
    throw Error("dataset: {} images but {} labels; give each image one label", size(), labels.size(0));
  }
  if (!images.device().is_cpu() || !labels.device().is_cpu()) {
    throw Error("dataset: images and labels must be on the host (got {} and {}); move them with .cpu()",
                images.device().str(), labels.device().str());
  }
  if (size() == 0) return;
  const auto low = labels.min().item<std::int64_t>(), high = labels.max().item<std::int64_t>();
  if (low < 0 || high >= static_cast<std::int64_t>(classes.size())) {
    throw Error(
        "dataset.labels: out of range (got {} to {}, expected 0 to {} for {} classes); count labels from 0 "
        "and name every class",
        low, high, static_cast<std::int64_t>(classes.size()) - 1, classes.size());
  }
}

}  // namespace refine::data
