// The file of --config and --save_config: TOML.

#include <fmt/format.h>

// An assertion of toml++ 3.3 is wrong: it ends the process for "[,", which the parser then reports as an error.
#define TOML_ASSERT(expression) static_assert(true)
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <istream>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/text.hpp>

#include "tools/refine/config_file.hpp"

namespace refine::cli {
namespace {

[[noreturn]] void fail(const toml::source_region& place, std::string_view why) {
  throw Error("--config: line {}: {}", place.begin.line, why);
}

/// A text in which each byte beyond ASCII is written in letters and digits: toml++ 3.3 and 3.4 have no defined behaviour for
/// some of them (their issues 190 and 295).
class AsciiText {
 public:
  explicit AsciiText(std::string_view text) {
    for (auto n = static_cast<std::uint32_t>(std::hash<std::string_view>()(text));
         text.find(mark_) != text.npos; ++n)
      mark_ = fmt::format("u{:08x}", n);
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      ascii_ += byte < 0x80 ? std::string(1, c) : fmt::format("{}{:02x}", mark_, byte);
    }
  }

  const std::string& ascii() const { return ascii_; }

  /// Returns part of the text as it was.
  std::string restored(std::string_view ascii) const {
    std::string text;
    for (std::size_t begin; (begin = ascii.find(mark_)) != ascii.npos;) {
      text += ascii.substr(0, begin);
      const std::string_view digits = ascii.substr(std::min(begin + mark_.size(), ascii.size()), 2);
      unsigned byte = 0;
      std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16);
      text += static_cast<char>(byte);
      ascii.remove_prefix(std::min(begin + mark_.size() + 2, ascii.size()));
    }
    return text.append(ascii);
  }

 private:
  std::string mark_, ascii_;  // the mark is before each byte's digits, and nowhere else
};

/// What the parser has read, as CLI11 takes it.
class ConfigItems {
 public:
  explicit ConfigItems(const AsciiText& text) : text_(text) {}

  /// Adds a table's sections and values.
  void add(const toml::table& table, const std::vector<std::string>& parents) {
    for (const auto& [key, node] : table) {
      const std::string name = text_.restored(key.str());
      if (const toml::table* section = node.as_table(); section && !section->is_inline()) {
        std::vector<std::string> path = parents;
        path.push_back(name);
        items_.push_back({.parents = path, .name = "++"});  // CLI11's name of a section's beginning
        add(*section, path);
        continue;
      }
      CLI::ConfigItem item{.parents = parents, .name = name};
      if (const toml::array* array = node.as_array()) {
        for (const toml::node& each : *array) item.inputs.push_back(text_of(each));
        if (array->empty()) fail(node.source(), "the array is empty; leave the option out");
      } else {
        item.inputs.push_back(text_of(node));
      }
      items_.push_back(std::move(item));
    }
  }

  std::vector<CLI::ConfigItem> take() { return std::move(items_); }

 private:
  /// Returns a value as an option's text.
  std::string text_of(const toml::node& node) const {
    if (const auto* text = node.as_string()) return text_.restored(text->get());
    if (const auto* number = node.as_integer()) return fmt::format("{}", number->get());
    if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
    if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
    fail(node.source(), "expected text in quotes, a number, true, false or an array of these");
  }

  const AsciiText& text_;
  std::vector<CLI::ConfigItem> items_;
};

/// True for a number that is read back as the same text.
bool is_number(const std::string& value) {
  const auto number = nlohmann::json::parse(value, nullptr, /*allow_exceptions=*/false);
  if (number.is_number_unsigned() && number.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
    return false;
  if (number.is_number_float()) return fmt::format("{}", number.get<double>()) == value;
  return number.is_number_integer() && number.dump() == value;
}

/// Returns a value as TOML. Numbers are not quoted.
/// \throws Error for text that is not UTF-8, which TOML cannot represent
std::string toml_of(const std::string& value) {
  if (is_number(value)) return value;
  if (text::find_invalid_utf8(value) != std::string::npos)
    throw Error("--save_config: '{}' is not UTF-8, which the file must be; leave --save_config out",
                text::printable(value));
  std::string quoted = "\"";
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      quoted += fmt::format("\\u{:04X}", byte);
    } else {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += c;
    }
  }
  return quoted + '"';
}

/// Returns the line of an option; "" if it was left out and has no default.
std::string line_of(const CLI::Option& option) {
  std::vector<std::string> values = option.reduced_results();
  if (values.empty()) values = {option.get_default_str()};
  const std::string name = option.get_single_name() + "=";
  if (option.get_expected_min() == 0)
    return name + (values[0].empty() ? "false" : values[0]) + "\n";  // a flag
  if (values.size() == 1) return values[0].empty() ? "" : name + toml_of(values[0]) + "\n";
  std::string list;
  for (const std::string& value : values) list += (list.empty() ? "" : ", ") + toml_of(value);
  return name + "[" + list + "]\n";
}

/// Options in TOML.
struct ConfigFile : CLI::Config {
  std::string to_config(const CLI::App* app, bool, bool, std::string) const override {
    std::string text;
    for (const CLI::Option* option : app->get_options({})) {
      if (option->get_configurable()) text += line_of(*option);
    }
    return text;
  }

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    constexpr std::size_t max_bytes = 1 << 20;
    std::string text{std::istreambuf_iterator<char>(input), {}};
    if (text.size() > max_bytes) {
      throw Error("--config: the file has {} bytes, more than the {} allowed", text.size(), max_bytes);
    }
    if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
    if (const std::size_t bad = text::find_invalid_utf8(text); bad != text.npos) {
      throw Error("--config: line {}: not UTF-8 (got the byte 0x{:02x}); save the file as UTF-8",
                  1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(bad), '\n'),
                  static_cast<unsigned char>(text[bad]));
    }
    const AsciiText ascii(text);
    ConfigItems items(ascii);
    try {
      items.add(toml::parse(ascii.ascii()), {});
    } catch (const toml::parse_error& error) {
      const std::string why = ascii.restored(error.description());
      const bool is_value = why.find("parsing value") != why.npos ||
                            why.find("parsing boolean") != why.npos ||
                            why.find("parsing floating") != why.npos;
      fail(error.source(), fmt::format("{}{}", why, is_value ? "; text must be in quotes" : ""));
    }
    return items.take();
  }
};

}  // namespace

std::shared_ptr<CLI::Config> config_file() {
  return std::make_shared<ConfigFile>();
}

std::string configuration(const CLI::App& command) {
  std::string text;
  for (const char* name : {"--device", "--gpu_id", "--threads", "--json"}) {  // options of all commands
    const CLI::Option* option = command.get_parent()->get_option(name);
    if (option->count() > 0) text += line_of(*option);
  }
  return text + "[" + command.get_name() + "]\n" + command.config_to_str();
}

}  // namespace refine::cli
