#pragma once

#include <refine/data/image_store.hpp>

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

/// Before hours of decoding, not after them.
REFINE_INLINE void require_space(const std::filesystem::path& path, double bytes) {
  std::error_code unknown;
  const auto space = std::filesystem::space(path.has_parent_path() ? path.parent_path() : ".", unknown);
  if (unknown || static_cast<double>(space.available) >= bytes) return;
  throw Error(
      "cannot write {}: it takes {:.1f} GB and {:.1f} GB are free there; free some space or choose "
      "another folder for the store",
      path.string(), bytes / 1e9, static_cast<double>(space.available) / 1e9);
}

/// Decodes the source into the store at `path`, whole or not at all.
/// \throws Error as `decode_images`, and when it can't be written
REFINE_INLINE void make_store(const std::filesystem::path& path, const StoreSource& source,
                              OnDecodeError on_bad, unsigned threads, const std::string& what) {
  const std::size_t n = source.files.size();
  const ImageShape shape = decoded_shape(source.files, source.wanted, source.fit, on_bad, what);
  Decoding decoding(source.files, shape, source.fit, on_bad, threads, what);
  const std::size_t image_bytes = decoding.image_bytes();
  AtomicFile file(path);
  require_space(file.path(), static_cast<double>(image_bytes) * static_cast<double>(n));
  file.write(StoreHead{.key = source.key(), .shape = shape, .files = n}.text());

  constexpr std::size_t most_bytes = 64 << 20;  // enough images that no thread waits long for the others
  const std::size_t stretch =
      std::clamp<std::size_t>(most_bytes / image_bytes, 1, 32 * std::size_t{decoding.threads()});
  std::vector<std::uint8_t> pixels(std::min(stretch, n) * image_bytes);
  std::vector<std::string> bad(n);
  StoreTail tail;
  for (std::size_t begin = 0; begin < n; begin += stretch) {
    const std::size_t good = decoding.run(begin, std::min(stretch, n - begin), pixels.data(), bad);
    file.write(pixels.data(), good * image_bytes);
    tail.images += good;
  }
  require_one(bad, static_cast<std::int64_t>(tail.images));
  std::string text;
  for (std::size_t i = 0; i < n; ++i) {
    if (!bad[i].empty()) text += fmt::format("{} {}\n", i, printable(bad[i]));
  }
  tail.text_bytes = text.size();
  file.write(text);
  file.write(tail.text());
  file.commit();
  decoding.finish();
}

/// Whether the store lacks a file that could not be read then and can be read now: rights and mounts change
/// without a trace in the file.
REFINE_INLINE bool was_unreadable(const DecodedImages& store,
                                  const std::vector<std::filesystem::path>& files) {
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (store.bad[i].starts_with("cannot read ") && std::ifstream(files[i]).good()) return true;
  }
  return false;
}

REFINE_INLINE DecodedImages stored_images(const std::filesystem::path& path, const StoreSource& source,
                                          OnDecodeError on_bad, unsigned threads, const std::string& what) {
  const auto usable = [&](const std::optional<DecodedImages>& store) {
    return store && (on_bad == OnDecodeError::skip || std::ranges::all_of(store->bad, &std::string::empty));
  };
  if (auto store = open_store(path, source); usable(store) && !was_unreadable(*store, source.files))
    return std::move(*store);
  make_store(path, source, on_bad, threads, what);
  if (auto store = open_store(path, source); usable(store)) return std::move(*store);
  throw Error("cannot use the images of {}: they changed while they were read; let them be, and try again",
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
