#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>

#include <cstdint>
#include <vector>

#include <refine/data/dataset.hpp>

// Datasets whose images can be recognized.
namespace refine::testing {

using Indices = std::vector<std::int64_t>;

/// Returns a dataset whose image i is filled with i and has label i % 3.
inline data::Dataset numbered(std::int64_t n) {
  return {.images = at::arange(n).to(at::kByte).view({n, 1, 1, 1}).expand({n, 3, 4, 5}).contiguous(),
          .labels = at::arange(n).remainder(3),
          .classes = {"a", "b", "c"}};
}

/// Returns the elements of a tensor.
inline Indices values(const at::Tensor& t) {
  const auto longs = t.to(at::kLong).contiguous();
  return {longs.const_data_ptr<std::int64_t>(), longs.const_data_ptr<std::int64_t>() + longs.numel()};
}

/// Returns the number that each image is filled with.
inline Indices numbers(const at::Tensor& images) {
  return values(images.select(1, 0).select(1, 0).select(1, 0));
}

/// Returns the number that each image of a dataset is filled with.
inline Indices numbers(const data::Dataset& set) {
  return numbers(set.images);
}

}  // namespace refine::testing
