#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

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

#if !defined(REFINE_COMPILED)
#include <refine/data/mapped_images_definitions.hpp>
#endif
