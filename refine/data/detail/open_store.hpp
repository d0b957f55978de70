#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/decode.hpp>
#include <refine/data/resize.hpp>

/// Files as tensors, without reading them into memory.
namespace refine::data::detail {

/// A file that is open for reading.
class OpenFile {
 public:
  explicit OpenFile(std::filesystem::path path);
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile();

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  std::size_t size() const { return size_; }

  /// `count` bytes from `at` on; fewer at the end of the file.
  std::string read(std::size_t at, std::size_t count) const;

  [[noreturn]] void fail(int reason) const;

 private:
  std::filesystem::path path_;
  int descriptor_;
  std::size_t size_ = 0;
};

/// The whole of a file in memory, copied on write: a page takes memory of its own once it is written to, and
/// the file never changes.
struct Mapping {
  std::shared_ptr<const OpenFile> file;
  std::uint8_t* begin = nullptr;

  /// \pre the file has bytes
  explicit Mapping(std::shared_ptr<const OpenFile> of);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  static void release(void* mapping) { delete static_cast<Mapping*>(mapping); }
};

/// The bytes of a mapped file from `offset` on, as uint8 of these sizes; unmapped with the last tensor.
at::Tensor mapped_tensor(std::unique_ptr<Mapping> mapping, std::size_t offset, at::IntArrayRef sizes);

/// The mapping that a tensor, or what it is a view of, lies in; none for other tensors.
const Mapping* mapping_of(const at::Tensor& tensor);

}  // namespace refine::data::detail

namespace refine::data {

/// A copy of `images` that may be written to: neither sees what is changed in the other. Of images in a store
/// on disk (`image_store.hpp`) it is another mapping of that file, copied on write, so that only the images
/// that were changed take memory; the pages are gone through once. Of others it is `images.clone()`.
/// \throws Error when the file can't be mapped once more
inline at::Tensor copy_on_write(const at::Tensor& images) {
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

/// The file of an image store: a page that says what it is of; the pixels, N×C×H×W bytes; a line for each
/// file that was left out ("<its index> <why>"); a last line that says how much there is of both.
namespace refine::data::detail {

/// What a store is made of.
struct StoreSource {
  std::filesystem::path folder;              ///< what `files` lie in, which may be moved
  std::vector<std::filesystem::path> files;  ///< one at least
  ImageShape wanted;
  ResizeMode fit;

  /// Changes when a file is added, removed, renamed or written to, or images become something else.
  std::uint64_t key() const;
};

struct StoreHead {
  static constexpr std::size_t bytes = 4096;  // the pixels begin on a page
  static constexpr std::string_view name = "refine image store ";

  std::uint64_t key = 0;
  ImageShape shape = {};
  std::size_t files = 0;

  std::string text() const;
};

struct StoreTail {
  static constexpr std::size_t bytes = 46;

  std::size_t images = 0, text_bytes = 0;

  std::string text() const;
};

/// What the store at `path` holds; nothing where there is none, or one that is cut or of something else.
/// \throws Error when another file lies there, or it can't be read
std::optional<DecodedImages> open_store(const std::filesystem::path& path, const StoreSource& source);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/open_store.ipp>
#endif
