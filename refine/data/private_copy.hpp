#pragma once

#include <ATen/core/Tensor.h>
#include <refine/data/mapped_images.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

namespace refine::data {

/// A copy of `images` that may be written to: neither sees what is changed in the other. Of images in a store
/// on disk (`image_store.hpp`) it is another mapping of that file, copied on write, so that only the images
/// that were changed take memory; the pages are gone through once. Of others it is `images.clone()`.
/// \throws Error when the file can't be mapped once more
inline at::Tensor private_copy(const at::Tensor& images) {
  const detail::Mapping* const from = detail::mapping_of(images);
  if (!from || !images.is_contiguous()) return images.clone();
  const auto* const old = static_cast<const std::uint8_t*>(images.const_data_ptr());
  auto mapping = std::make_unique<detail::Mapping>(from->file);
  std::uint8_t* const fresh = mapping->begin + (old - from->begin);
  // What was written to `images` since they were mapped is not in the file.
  constexpr std::size_t stretch = 1 << 14;
  const std::size_t size = images.nbytes();
  for (std::size_t at = 0; at < size; at += stretch) {
    const std::size_t count = std::min(stretch, size - at);
    if (std::memcmp(fresh + at, old + at, count) != 0) std::memcpy(fresh + at, old + at, count);
  }
  return detail::mapped_tensor(std::move(mapping), static_cast<std::size_t>(old - from->begin),
                               images.sizes());
}

}  // namespace refine::data
