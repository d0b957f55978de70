#include "tools/refine/class_names.hpp"

#include <algorithm>
#include <cstddef>
#include <string_view>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/data/detail/bytes.hpp>

namespace refine::cli {
namespace {

/// What the first bytes say of a text that is not UTF-8; empty if they say nothing.
std::string_view encoding_of(std::string_view text) {
  using namespace std::string_view_literals;
  if (text.starts_with("\xff\xfe\0\0"sv) || text.starts_with("\0\0\xfe\xff"sv)) return "UTF-32";
  if (text.starts_with("\xff\xfe"sv) || text.starts_with("\xfe\xff"sv)) return "UTF-16";
  const std::string_view first = text.substr(0, 4096);
  return first.find('\0') != first.npos ? "UTF-16 without a byte order mark, or no text at all" : "";
}

std::string_view trimmed(std::string_view line) {
  constexpr std::string_view blanks = " \t\v\f\r";
  const std::size_t begin = line.find_first_not_of(blanks);
  if (begin == line.npos) return {};
  return line.substr(begin, line.find_last_not_of(blanks) + 1 - begin);
}

}  // namespace

std::vector<std::string> read_class_names(const std::filesystem::path& path) {
  std::string text = read_file(path);
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  if (const auto encoding = encoding_of(text); !encoding.empty()) {
    throw Error("class names {}: the file is not UTF-8 (got {}); save it as UTF-8", path.string(), encoding);
  }
  if (const std::size_t bad = data::find_invalid_utf8(text); bad != std::string::npos) {
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(bad), '\n');
    throw Error(
        "class names {}: line {} is not UTF-8 (got the byte 0x{:02x}, as Latin-1 and Windows-1252 have); "
        "save the file as UTF-8",
        path.string(), line, static_cast<unsigned char>(text[bad]));
  }
  std::vector<std::string> names;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find_first_of("\r\n"), rest.size());
    if (const auto name = trimmed(rest.substr(0, end)); !name.empty()) names.emplace_back(name);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (names.empty()) {
    throw Error("class names {}: the file has no names; write one a line, in the model's order",
                path.string());
  }
  return names;
}

}  // namespace refine::cli
