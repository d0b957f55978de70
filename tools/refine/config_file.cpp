// The file of --config and --save_config: the part of TOML that the options need.

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <istream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/text.hpp>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

/// Reads TOML 1.0 except for multi-line strings, inline tables, dates and arrays of arrays, which no option has.
class TomlReader {
 public:
  explicit TomlReader(std::string_view text) : rest_(text) {
    if (rest_.starts_with("\xef\xbb\xbf")) rest_.remove_prefix(3);
  }

  /// Returns the sections, and the values as texts.
  /// \throws Error for text that is not such TOML, with its line
  std::vector<CLI::ConfigItem> read() {
    std::vector<CLI::ConfigItem> items;
    std::vector<std::string> section;
    std::set<std::string> seen;
    for (skip_lines(); !rest_.empty(); skip_lines()) {
      CLI::ConfigItem item;
      if (take('[')) {
        if (take('[')) fail("arrays of tables are not read");
        section = read_keys();
        if (!take(']')) fail("expected ] behind the section's name");
        item = {.parents = section, .name = "++"};  // CLI11's name of a section's beginning
      } else {
        item.parents = section;
        std::vector<std::string> keys = read_keys();
        item.name = keys.back();
        item.parents.insert(item.parents.end(), keys.begin(), keys.end() - 1);
        if (!take('=')) fail(fmt::format("expected {} = value", text::printable(item.name)));
        item.inputs = read_values();
        if (!seen.insert(item.fullname()).second)
          fail(fmt::format("'{}' has a value already", text::printable(item.name)));
      }
      skip_blanks();
      skip_comment();
      if (!rest_.empty() && !take('\n')) fail("expected the end of the line; text must be in quotes");
      items.push_back(std::move(item));
    }
    return items;
  }

 private:
  [[noreturn]] void fail(std::string_view why) const { throw Error("--config: line {}: {}", line_, why); }

  char next() const { return rest_.empty() ? '\0' : rest_.front(); }

  /// Removes a character and the blanks before it, if it is the next one.
  bool take(char c) {
    skip_blanks();
    if (rest_.empty() || rest_.front() != c) return false;
    if (c == '\n') ++line_;
    rest_.remove_prefix(1);
    return true;
  }

  void skip_blanks() {
    while (next() == ' ' || next() == '\t' || rest_.starts_with("\r\n")) rest_.remove_prefix(1);
  }

  void skip_comment() {
    if (next() == '#') rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));
  }

  void skip_lines() {
    do {
      skip_blanks();
      skip_comment();
    } while (take('\n'));
  }

  std::string_view take_word(std::string_view more) {
    std::size_t n = 0;
    while (n < rest_.size() && (std::isalnum(static_cast<unsigned char>(rest_[n])) != 0 ||
                                more.find(rest_[n]) != std::string_view::npos))
      ++n;
    const std::string_view word = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return word;
  }

  std::vector<std::string> read_keys() {
    std::vector<std::string> keys;
    do {
      skip_blanks();
      const bool is_quoted = next() == '"' || next() == '\'';
      keys.push_back(is_quoted ? read_quoted() : std::string(take_word("_-")));
      if (keys.back().empty()) fail("expected a name");
    } while (take('.'));
    return keys;
  }

  /// Returns a value, or those of an array.
  std::vector<std::string> read_values() {
    if (!take('[')) return {read_value()};
    std::vector<std::string> values;
    for (skip_lines(); next() != ']'; skip_lines()) {
      values.push_back(read_value());
      skip_lines();
      if (!take(',') && next() != ']')
        fail("expected , or ] behind a value of an array; text must be in quotes");
    }
    rest_.remove_prefix(1);
    if (values.empty()) fail("the array is empty; leave the option out");
    return values;
  }

  std::string read_value() {
    skip_blanks();
    if (next() == '"' || next() == '\'') return read_quoted();
    std::string word(take_word("_.+-"));
    if (word.empty()) fail("expected text in quotes, a number, true, false or an array of these");
    const std::string_view digits =
        std::string_view(word).substr(std::min(word.find_first_not_of("+-."), word.size()));
    const bool is_number = !digits.empty() && std::isdigit(static_cast<unsigned char>(digits.front())) != 0;
    if (!is_number && word != "true" && word != "false" && digits != "inf" && digits != "nan")
      fail(fmt::format("text must be in quotes (got {})", word));
    return word;
  }

  std::string read_quoted() {
    const char quote = next();
    if (rest_.starts_with(std::string(3, quote))) fail("strings of several lines are not read; write \\n");
    rest_.remove_prefix(1);
    std::string text;
    for (; next() != quote; rest_.remove_prefix(1)) {
      if (rest_.empty() || next() == '\n') fail(fmt::format("the closing {} is missing", quote));
      if (next() != '\\' || quote == '\'') {
        text += next();
      } else {
        rest_.remove_prefix(1);
        add_escaped(text);
      }
    }
    rest_.remove_prefix(1);
    return text;
  }

  /// Adds what a character behind a backslash stands for.
  void add_escaped(std::string& text) {
    constexpr std::string_view names = "btnfr\"\\", values = "\b\t\n\f\r\"\\";
    if (const std::size_t i = names.find(next()); i != names.npos && !rest_.empty()) {
      text += values[i];
      return;
    }
    const std::size_t digits = next() == 'u' ? 4 : next() == 'U' ? 8 : 0;
    std::uint32_t code = 0;
    const char* const begin = rest_.data() + 1;
    if (digits == 0 || rest_.size() <= digits ||
        std::from_chars(begin, begin + digits, code, 16).ptr != begin + digits || !append_utf8(code, text))
      fail("a backslash must be written \\\\ in a string with \"; strings with ' have no escapes");
    rest_.remove_prefix(digits);
  }

  static bool append_utf8(std::uint32_t code, std::string& text) {
    if (code == 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
    const auto add = [&](std::uint32_t byte) { text += static_cast<char>(byte); };
    if (code < 0x80) {
      add(code);
      return true;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    add((0xff00U >> (more + 1) & 0xff) | code >> 6 * more);
    for (int i = more - 1; i >= 0; --i) add(0x80 | (code >> 6 * i & 0x3f));
    return true;
  }

  std::string_view rest_;
  int line_ = 1;
};

/// Returns a value as TOML. Numbers are not quoted.
std::string toml_of(const std::string& value) {
  const bool has_blanks = value.find_first_of(" \t\r\n") != std::string::npos;
  if (!has_blanks && nlohmann::json::accept(value) && nlohmann::json::parse(value).is_number()) return value;
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
    const std::string text(std::istreambuf_iterator<char>(input), {});
    return TomlReader(text).read();
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
