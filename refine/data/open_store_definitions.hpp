#pragma once

// What open_store.hpp declares.

#include <refine/data/open_store.hpp>

#include <fmt/format.h>

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

#include <refine/core/compiled.hpp>
#include <refine/core/seed.hpp>
#include <refine/data/mapped_images.hpp>

namespace refine::data::detail {

REFINE_DEFINITION std::uint64_t StoreSource::key() const {
  std::uint64_t key = static_cast<std::uint64_t>(fit.kind);
  if (fit.shorter_side > 0) {
    key = derived_seed(key, "shorter side", static_cast<std::uint64_t>(fit.shorter_side));
  }
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

REFINE_DEFINITION std::string StoreHead::text() const {
  std::string text =
      fmt::format("{}1\n{:016x}\n{}x{}x{} {}\n", name, key, shape.channels, shape.height, shape.width, files);
  text.resize(bytes, '\0');
  return text;
}

REFINE_DEFINITION std::string StoreTail::text() const {
  return fmt::format("{:020} {:020} end\n", images, text_bytes);
}

REFINE_DEFINITION std::optional<DecodedImages> open_store(const std::filesystem::path& path,
                                                          const StoreSource& source) {
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
