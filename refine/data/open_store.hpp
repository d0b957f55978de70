#pragma once

#include <refine/core/error.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/data/decode_images.hpp>
#include <refine/data/resize.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// The file of an image store: a page that says what it is of; the pixels, N×C×H×W bytes; a line for each
/// file that was left out ("<its index> <why>"); a last line that says how much there is of both.
namespace refine::data::detail {

/// What a store is made of.
struct StoreSource {
  std::filesystem::path folder;              ///< what `files` lie in, which may be moved
  std::vector<std::filesystem::path> files;  ///< one at least
  ImageShape wanted;
  Fit fit;

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

#if !defined(REFINE_COMPILED)
#include <refine/data/open_store_definitions.hpp>
#endif
