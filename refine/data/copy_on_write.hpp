#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/data/detail/open_store.hpp>

namespace refine::data {

/// Returns a copy of images that may be written to without changing the original.
///
/// Images of a store (`ImageFolderOptions::store`) lie in a file that is mapped, not read, so that
/// a set may be larger than memory. For such images the copy is another mapping of the file, copied
/// on write: only the images that are changed take memory. The function reads through all pages
/// once. Other images are cloned.
///
/// ```cpp
/// const data::Dataset clean = data::image_folder("photos/train", {.store = "photos/decoded"});
/// at::Tensor stamped = data::copy_on_write(clean.images);
/// stamped[7].fill_(255);  // takes a page or two; clean.images and the file are as before
/// ```
/// \param images uint8 of any shape
/// \throws Error if the file cannot be mapped again
inline at::Tensor copy_on_write(const at::Tensor& images) {
  const detail::Mapping* const source = detail::mapping_of(images);
  if (!source || !images.is_contiguous()) return images.clone();
  const auto* const original = static_cast<const std::uint8_t*>(images.const_data_ptr());
  const auto offset = static_cast<std::size_t>(original - source->begin);
  auto mapping = std::make_unique<detail::Mapping>(source->file);
  std::uint8_t* const copy = mapping->begin + offset;
  // What has been written to `images` since they were mapped is not in the file.
  constexpr std::size_t block = 1 << 14;
  const std::size_t size = images.nbytes();
  for (std::size_t begin = 0; begin < size; begin += block) {
    const std::size_t count = std::min(block, size - begin);
    if (std::memcmp(copy + begin, original + begin, count) != 0)
      std::memcpy(copy + begin, original + begin, count);
  }
  return detail::mapped_tensor(std::move(mapping), offset, images.sizes());
}

}  // namespace refine::data
