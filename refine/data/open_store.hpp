#pragma once

#include <fmt/format.h>
#include <refine/core/error.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/core/seed.hpp>
#include <refine/data/decode_images.hpp>
#include <refine/data/mapped_images.hpp>
#include <refine/data/resize.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
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
  std::uint64_t key() const {
    std::uint64_t key = static_cast<std::uint64_t>(fit);
    for (const int extent : {wanted.channels, wanted.height, wanted.width}) {
      key = derived_seed(key, "extent", static_cast<std::uint64_t>(extent));
    }
    for (const auto& file : files) {
      std::error_code unknown;  // whoever decodes the file says what is wrong with it
      const auto size = std::filesystem::file_size(file, unknown);
      const auto time = std::filesystem::last_write_time(file, unknown).time_since_epoch().count();
      key = derived_seed(key, file.lexically_relative(folder).native(), size);
      key = derived_seed(key, "time", static_cast<std::uint64_t>(time));
    }
    return key;
  }
};

struct StoreHead {
  static constexpr std::size_t bytes = 4096;  // the pixels begin on a page
  static constexpr std::string_view name = "refine image store ";

  std::uint64_t key = 0;
  ImageShape shape = {};
  std::size_t files = 0;

  std::string text() const {
    std::string text = fmt::format("{}1\n{:016x}\n{}x{}x{} {}\n", name, key, shape.channels, shape.height,
                                   shape.width, files);
    text.resize(bytes, '\0');
    return text;
  }
};

struct StoreTail {
  static constexpr std::size_t bytes = 46;

  std::size_t images = 0, text_bytes = 0;

  std::string text() const { return fmt::format("{:020} {:020} end\n", images, text_bytes); }
};

/// What the store at `path` holds; nothing where there is none, or one that is cut or of something else.
/// \throws Error when another file lies there, or it can't be read
inline std::optional<DecodedImages> open_store(const std::filesystem::path& path, const StoreSource& source) {
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path, unknown)) return std::nullopt;
  const auto file = std::make_shared<const OpenFile>(path);
  const std::string head_text = file->read(0, StoreHead::bytes);
  if (!head_text.starts_with(StoreHead::name)) {
    throw Error("cannot keep images in {}: a file that is no image store lies there; choose another folder",
                path.string());
  }
  StoreHead head{.key = source.key(), .files = source.files.size()};
  const auto at = head_text.find('\n', StoreHead::name.size() + 2);
  if (at == head_text.npos || std::sscanf(head_text.c_str() + at, "%dx%dx%d", &head.shape.channels,
                                          &head.shape.height, &head.shape.width) != 3) {
    return std::nullopt;
  }
  const auto least = StoreHead::bytes + StoreTail::bytes;
  const auto& [channels, height, width] = head.shape;
  if (head_text != head.text() || file->size() < least || !compatible(source.wanted, head.shape) ||
      (channels != 1 && channels != 3) || height < 1 || width < 1) {
    return std::nullopt;
  }

  StoreTail tail;
  const std::string tail_text = file->read(file->size() - StoreTail::bytes, StoreTail::bytes);
  if (std::sscanf(tail_text.c_str(), "%zu %zu", &tail.images, &tail.text_bytes) != 2 ||
      tail_text != tail.text() || tail.images < 1 || tail.images > head.files) {
    return std::nullopt;
  }
  const std::size_t room = file->size() - least;
  const std::size_t image_bytes =
      static_cast<std::size_t>(channels) * static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  if (image_bytes > room / tail.images || tail.text_bytes != room - tail.images * image_bytes)
    return std::nullopt;

  DecodedImages stored{.images = {}, .bad = std::vector<std::string>(head.files)};
  std::size_t left_out = 0;
  const std::string text = file->read(file->size() - StoreTail::bytes - tail.text_bytes, tail.text_bytes);
  for (std::string_view rest = text; !rest.empty(); ++left_out) {
    const std::string line(rest.substr(0, rest.find('\n')));
    std::size_t index = 0;
    int digits = 0;
    if (std::sscanf(line.c_str(), "%zu %n", &index, &digits) != 1 || index >= head.files ||
        !stored.bad[index].empty() || static_cast<std::size_t>(digits) >= line.size()) {
      return std::nullopt;
    }
    stored.bad[index] = line.substr(static_cast<std::size_t>(digits));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
  }
  if (tail.images + left_out != head.files) return std::nullopt;
  stored.images = mapped_tensor(std::make_unique<Mapping>(file), StoreHead::bytes,
                                {static_cast<std::int64_t>(tail.images), channels, height, width});
  return stored;
}

}  // namespace refine::data::detail
