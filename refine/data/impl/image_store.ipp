#pragma once

#include <refine/data/detail/open_store.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>

namespace refine::data::detail {

/// Throws an `Error` if the disk has too little space, before hours of decoding.
REFINE_INLINE void check_space(const std::filesystem::path& path, double bytes) {
  std::error_code unknown;
  const auto space = std::filesystem::space(path.has_parent_path() ? path.parent_path() : ".", unknown);
  if (unknown || static_cast<double>(space.available) >= bytes) return;
  throw Error(
      "cannot write {}: too little space (got {:.1f} GB, expected {:.1f} GB); free some space or use another "
      "folder for the store",
      path.string(), static_cast<double>(space.available) / 1e9, bytes / 1e9);
}

/// Decodes the source into a store at `path`, which appears once it is complete.
/// \throws Error as `decode_images` does, and if the store cannot be written
REFINE_INLINE void build_store(const std::filesystem::path& path, const StoreSource& source,
                               OnDecodeError on_error, unsigned threads, const std::string& what) {
  const std::size_t n = source.files.size();
  const ImageShape shape = resolve_shape(source.files, source.wanted, source.fit, on_error, what);
  ParallelDecoder decoder(source.files, shape, source.fit, on_error, threads, what);
  const std::size_t image_bytes = decoder.image_bytes();
  AtomicFile file(path);
  check_space(file.path(), static_cast<double>(image_bytes) * static_cast<double>(n));
  file.write(StoreHeader{.key = source.key(), .shape = shape, .files = n}.text());

  constexpr std::size_t max_bytes = 64 << 20;  // enough images that no thread waits long for the others
  const std::size_t block =
      std::clamp<std::size_t>(max_bytes / image_bytes, 1, 32 * std::size_t{decoder.threads()});
  std::vector<std::uint8_t> pixels(std::min(block, n) * image_bytes);
  std::vector<std::string> errors(n);
  StoreFooter footer;
  for (std::size_t begin = 0; begin < n; begin += block) {
    const std::size_t decoded = decoder.run(begin, std::min(block, n - begin), pixels.data(), errors);
    file.write(pixels.data(), decoded * image_bytes);
    footer.images += decoded;
  }
  check_any_decoded(errors, static_cast<std::int64_t>(footer.images));
  std::string text;
  for (std::size_t i = 0; i < n; ++i) {
    if (!errors[i].empty()) text += fmt::format("{} {}\n", i, printable(errors[i]));
  }
  footer.text_bytes = text.size();
  file.write(text);
  file.write(footer.text());
  file.commit();
  decoder.finish();
}

/// True if the store lacks a file that could not be read when it was built and can be read now:
/// permissions and mounts change without a trace in the file.
REFINE_INLINE bool has_become_readable(const DecodedImages& store,
                                       const std::vector<std::filesystem::path>& files) {
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (store.errors[i].starts_with("cannot read ") && std::ifstream(files[i]).good()) return true;
  }
  return false;
}

REFINE_INLINE DecodedImages open_or_build_store(const std::filesystem::path& path, const StoreSource& source,
                                                OnDecodeError on_error, unsigned threads,
                                                const std::string& what) {
  const auto usable = [&](const std::optional<DecodedImages>& store) {
    return store &&
           (on_error == OnDecodeError::skip || std::ranges::all_of(store->errors, &std::string::empty));
  };
  if (auto store = open_store(path, source); usable(store) && !has_become_readable(*store, source.files))
    return std::move(*store);
  build_store(path, source, on_error, threads, what);
  if (auto store = open_store(path, source); usable(store)) return std::move(*store);
  throw Error("{}: the images changed while they were read; try again without changing them",
              source.folder.string());
}

REFINE_INLINE std::filesystem::path common_folder(const std::vector<std::filesystem::path>& files) {
  std::filesystem::path common = files.front().parent_path();
  for (const auto& file : files) {
    const std::filesystem::path folder = file.parent_path();
    const auto end = std::mismatch(common.begin(), common.end(), folder.begin(), folder.end()).first;
    if (end == common.end()) continue;
    std::filesystem::path shorter;
    for (auto part = common.begin(); part != end; ++part) shorter /= *part;
    common = std::move(shorter);
  }
  return common.empty() ? "." : common;
}

REFINE_INLINE std::filesystem::path store_path(const std::filesystem::path& folder,
                                               const std::filesystem::path& store, const std::string& part) {
  std::error_code unknown;
  std::filesystem::path whole = std::filesystem::absolute(folder, unknown).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();  // it ended in a slash
  return store / (whole.filename().string() + part + ".images");
}

}  // namespace refine::data::detail
