// The file of --config and --save_config: TOML.

#include <fmt/format.h>

// An assertion of toml++ 3.3 is wrong: it ends the process for "[,", which the parser then reports as an error.
#define TOML_ASSERT(expression) static_assert(true)
#include <toml++/toml.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
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

/// Returns a value as an option's text.
std::string text_of(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return fmt::format("{}", number->get());
  if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
  if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  fail(node.source(), "expected text in quotes, a number, true, false or an array of these");
}

/// Adds a table's sections and values as CLI11 takes them.
void add_items(const toml::table& table, const std::vector<std::string>& parents,
               std::vector<CLI::ConfigItem>& items) {
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    if (const toml::table* section = node.as_table(); section && !section->is_inline()) {
      std::vector<std::string> path = parents;
      path.push_back(name);
      items.push_back({.parents = path, .name = "++"});  // CLI11's name of a section's beginning
      add_items(*section, path, items);
      continue;
    }
    CLI::ConfigItem item{.parents = parents, .name = name};
    if (const toml::array* array = node.as_array()) {
      for (const toml::node& each : *array) item.inputs.push_back(text_of(each));
      if (array->empty()) fail(node.source(), "the array is empty; leave the option out");
    } else {
      item.inputs.push_back(text_of(node));
    }
    items.push_back(std::move(item));
  }
}

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

/// Refuses what toml++ 3.3 and 3.4 do not expect (their issues 190 and 295): a character beyond ASCII outside of quotes and comments,
/// which TOML does not allow, or after a line of a text that ends in a backslash, which it does.
void check_characters(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  std::string_view quotes;  // around the text that has begun; empty outside
  bool is_comment = false;
  std::size_t line = 1;
  const auto refuse = [&](std::string_view why) { throw Error("--config: line {}: {}", line, why); };
  const auto is_beyond_ascii = [&](std::size_t i) {
    return i < text.size() && static_cast<unsigned char>(text[i]) >= 0x80;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      is_comment = false;
      if (quotes.size() == 1) quotes = {};  // the parser reports it
    } else if (is_comment) {
      continue;
    } else if (!quotes.empty()) {
      if (c == '\\' && quotes[0] == '"') {
        const std::size_t next = std::min(text.find_first_not_of(" \t\r\n", i + 1), text.size());
        if (next == i + 1) {
          ++i;  // what is escaped
        } else if (is_beyond_ascii(next)) {
          refuse("a character beyond ASCII after a line that ends in a backslash; write it as \\uNNNN");
        }
      } else if (text.substr(i).starts_with(quotes)) {
        i += quotes.size() - 1;
        quotes = {};
      }
    } else if (c == '"' || c == '\'') {
      const std::string_view three = text.substr(i, 3);
      quotes = three == "\"\"\"" || three == "\'\'\'" ? three : text.substr(i, 1);
      i += quotes.size() - 1;
    } else if (is_beyond_ascii(i)) {
      refuse("a character beyond ASCII outside of quotes; text must be in quotes");
    } else {
      is_comment = c == '#';
    }
  }
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
    std::vector<CLI::ConfigItem> items;
    const std::string text{std::istreambuf_iterator<char>(input), {}};
    check_characters(text);
    try {
      add_items(toml::parse(text), {}, items);
    } catch (const toml::parse_error& error) {
      const std::string_view why = error.description();
      const bool is_value = why.find("parsing value") != why.npos ||
                            why.find("parsing boolean") != why.npos ||
                            why.find("parsing floating") != why.npos;
      fail(error.source(), fmt::format("{}{}", why, is_value ? "; text must be in quotes" : ""));
    }
    return items;
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
