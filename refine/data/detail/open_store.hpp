#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/detail/parallel_decoder.hpp>
#include <refine/data/resize.hpp>

namespace refine::data::detail {

// ---- files as tensors, without reading them into memory ----

/// A file that is open for reading.
class OpenFile {
 public:
  /// \throws Error if the file cannot be opened
  explicit OpenFile(std::filesystem::path path);
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile();

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  std::size_t size() const { return size_; }

  /// Reads up to `count` bytes from `offset`; fewer at the end of the file.
  std::string read(std::size_t offset, std::size_t count) const;

  /// Throws an `Error` for a value of `errno`.
  [[noreturn]] void fail(int reason) const;

 private:
  std::filesystem::path path_;
  std::uint64_t size_ = 0;
  int descriptor_;
};

/// A whole file, mapped copy-on-write: a page takes memory once it is written to, and the file
/// never changes.
struct Mapping {
  std::shared_ptr<const OpenFile> file;
  std::uint8_t* begin = nullptr;

  /// \pre the file is not empty
  /// \throws Error if the system refuses
  explicit Mapping(std::shared_ptr<const OpenFile> source);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  static void release(void* mapping) { delete static_cast<Mapping*>(mapping); }
};

/// Returns the bytes of a mapped file from `offset` as uint8 of these sizes. Unmaps the file with
/// the last tensor.
at::Tensor mapped_tensor(std::unique_ptr<Mapping> mapping, std::size_t offset, at::IntArrayRef sizes);

/// Returns the mapping that holds a tensor or the tensor that it is a view of; null for other
/// tensors.
const Mapping* mapping_of(const at::Tensor& tensor);

// ---- the store: decoded images in a file, so that they are decoded only once ----
//
// The file has a page that identifies the source; the pixels, N×C×H×W bytes; a line for each file
// that was left out ("<index> <reason>"); and a last line with the sizes of both.

/// What a store is made of.
struct StoreSource {
  std::filesystem::path folder;              ///< folder of `files`, which may be moved
  std::vector<std::filesystem::path> files;  ///< at least one
  ImageShape wanted;                         ///< shape from the options
  ResizeMode resize_mode;                    ///< how images are resized

  /// Returns a hash that changes when a file is added, removed, renamed or written to, the content of one of a few
  /// files is another, or another shape or mode is wanted. It is the same for copies of the files that keep
  /// their times.
  std::uint64_t key() const;
};

/// The first page of a store.
struct StoreHeader {
  static constexpr std::size_t bytes = 4096;  ///< so that the pixels begin on a page
  static constexpr std::string_view name = "refine image store ";

  std::uint64_t key = 0;  ///< of the source
  ImageShape shape = {};  ///< of the images
  std::size_t files = 0;  ///< of the source

  std::string text() const;
};

/// The last line of a store.
struct StoreFooter {
  static constexpr std::size_t bytes = 46;

  std::size_t images = 0;      ///< decoded images
  std::size_t text_bytes = 0;  ///< bytes of the lines before this one

  std::string text() const;
};

/// Opens the store at `path`.
/// \return its images; nothing if the file is missing, or a store that is incomplete or of another
///   source
/// \throws Error if the file is not a store or cannot be read
std::optional<DecodedImages> open_store(const std::filesystem::path& path, const StoreSource& source);

/// Opens the store at `path`, and builds it first if it is missing or of another source.
/// \throws Error as `open_store` and `decode_images` do, and if the store cannot be written
DecodedImages open_or_build_store(const std::filesystem::path& path, const StoreSource& source,
                                  OnDecodeError on_error, unsigned threads, const std::string& what);

/// Returns the innermost folder that contains all files; `.` if their paths have no common folder.
/// \param files at least one
std::filesystem::path common_folder(const std::vector<std::filesystem::path>& files);

/// Returns the path of a folder's store: `<store>/<name of the folder><part>.images`.
/// \param folder the images' folder
/// \param store the folder of stores
/// \param part distinguishes the store of some of the images: ".some"
std::filesystem::path store_path(const std::filesystem::path& folder, const std::filesystem::path& store,
                                 const std::string& part = "");

/// Decodes files into memory or, if `options.store` is specified, into the store of their folder.
/// \param files at least one
/// \param options an `ImageFilesOptions` or `ImageFolderOptions`
/// \param folder contains the files; names the store
/// \param part as for `store_path`
/// \param what the source, for messages
/// \throws Error as `decode_images` and `open_or_build_store` do
DecodedImages decode_files(const std::vector<std::filesystem::path>& files, const auto& options,
                           const std::filesystem::path& folder, const std::string& part,
                           const std::string& what) {
  if (options.store.empty()) {
    return decode_images(files, options.image, options.resize_mode, options.on_error, options.threads, what);
  }
  return open_or_build_store(
      store_path(folder, options.store, part),
      {.folder = folder, .files = files, .wanted = options.image, .resize_mode = options.resize_mode},
      options.on_error, options.threads, what);
}

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/open_store.ipp>
#endif
