#include "tools/refine/parse_error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <optional>
#include <string_view>
#include <vector>

#include <refine/core/text.hpp>

namespace refine::cli {
namespace {

/// Returns how many letters are to be inserted, deleted, replaced or exchanged with their neighbour (the distance of
/// optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  // Row i is that of the first i letters of a.
  std::vector<std::vector<std::size_t>> rows(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  std::iota(rows[0].begin(), rows[0].end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    rows[i][0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = rows[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      rows[i][j] = std::min({replaced, rows[i - 1][j] + 1, rows[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        rows[i][j] = std::min(rows[i][j], rows[i - 2][j - 2] + 1);
    }
  }
  return rows[a.size()][b.size()];
}

/// Returns "; did you mean X?" for the name that a misspelt one is closest to; "" if none is close.
std::string suggestion(const std::string& wrong, const std::vector<std::string>& names,
                       std::string_view prefix) {
  const auto distance = [&](const std::string& name) {
    const bool is_part = wrong.size() >= 3 && (name.starts_with(wrong) || wrong.starts_with(name));
    return is_part ? std::size_t{1} : edit_distance(wrong, name);
  };
  const auto closest = std::ranges::min_element(names, {}, distance);
  const std::size_t close = std::max<std::size_t>(wrong.size() / 3, 1);
  if (closest == names.end() || distance(*closest) > close) return "";
  return fmt::format("; did you mean {}{}?", prefix, *closest);
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : commands_of(app)) names.push_back(command->get_name());
  return names;
}

/// Returns the names of the options of all commands and, if there is one, of a command.
std::vector<std::string> option_names(const CLI::App& app, const CLI::App* command = nullptr) {
  std::vector<std::string> names;
  for (const CLI::App* part : {&app, command}) {
    if (part == nullptr) continue;
    for (const CLI::Option* option : part->get_options()) {
      const auto& spellings = option->get_lnames();
      names.insert(names.end(), spellings.begin(), spellings.end());
    }
  }
  return names;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::ranges::find(names, name) != names.end();
}

/// Describes the first word of the command line that is neither an option nor the value of one.
std::optional<std::string> describe_unexpected(const std::vector<std::string>& left,
                                               const std::vector<std::string>& names) {
  const auto option = std::ranges::find_if(
      left, [](const std::string& word) { return word.size() > 1 && word.starts_with('-') && word != "--"; });
  if (option == left.end()) {
    if (left.empty()) return std::nullopt;
    return fmt::format("unexpected word '{}'", text::printable(left.front()));
  }
  const std::string word = option->substr(0, option->find('='));
  const std::size_t name = word.find_first_not_of('-');
  return fmt::format("unknown option {}{}", text::printable(word),
                     name == std::string::npos ? "" : suggestion(word.substr(name), names, "--"));
}

/// Describes an option that has got the name of another option as its value; "" if none has.
std::string describe_missing_value(const CLI::App& app, const std::vector<std::string>& names) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_items_expected_max() == 0) continue;
    for (const std::string& value : option->results()) {
      if (value.starts_with("--") && contains(names, value.substr(2)))
        return fmt::format("--{}: its value is missing (got {})", option->get_lnames().front(), value);
    }
  }
  return "";
}

/// Returns where the options are listed.
/// \param command its name; empty: the program's own
std::string help_of(const std::string& command) {
  return fmt::format("; see refine{}{} --help", command.empty() ? "" : " ", command);
}

/// Describes a name in the file of --config that is not an option.
/// \param entry the name, behind its section and a point if it is in one
/// \param chosen the command; null: none
std::string describe_entry(const CLI::App& app, const std::string& entry, const CLI::App* chosen) {
  const std::size_t point = entry.find('.');
  const std::string section = point == std::string::npos ? "" : entry.substr(0, point);
  const std::string name = point == std::string::npos ? entry : entry.substr(point + 1);
  if (section.empty()) {
    const std::string unknown = fmt::format("--config: unknown option '{}'", text::printable(name));
    const std::string command_name = chosen == nullptr ? "" : chosen->get_name();
    const bool is_of_command = chosen != nullptr && contains(option_names(*chosen), name);
    return unknown +
           (is_of_command ? fmt::format("; write it below the line [{}]", command_name)
                          : suggestion(name, option_names(app, chosen), "")) +
           help_of(command_name);
  }
  const std::vector<const CLI::App*> commands = commands_of(app);
  const auto command = std::ranges::find(commands, section, [](const CLI::App* c) { return c->get_name(); });
  if (command == commands.end()) {
    return fmt::format("--config: unknown section [{}]{}{}", text::printable(section),
                       suggestion(section, command_names(app), ""), help_of(""));
  }
  if (name.find('.') != std::string::npos) {  // CLI11's name of a section's beginning
    return fmt::format("--config: unknown section [{}.{}]{}", section,
                       text::printable(name.substr(0, name.find('.'))), help_of(section));
  }
  return fmt::format("--config: unknown option '{}' in [{}]{}{}", text::printable(name), section,
                     contains(option_names(app), name) ? "; write it above the first section"
                                                       : suggestion(name, option_names(**command), ""),
                     help_of(section));
}

}  // namespace

std::string describe(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<CLI::App*> all_chosen = app.get_subcommands();
  const CLI::App* const chosen = all_chosen.empty() ? nullptr : all_chosen.front();
  const std::string help = help_of(chosen == nullptr ? "" : chosen->get_name());
  const std::vector<std::string> left = app.remaining(/*recurse=*/true);
  if (chosen == nullptr) {
    // Behind the options of all commands, the first word must be a command.
    const auto word =
        std::ranges::find_if(left, [](const std::string& w) { return !w.empty() && !w.starts_with('-'); });
    if (word != left.end()) {
      return fmt::format("unknown command '{}'{}{}", text::printable(*word),
                         suggestion(*word, command_names(app), "refine "), help);
    }
  }
  constexpr std::string_view unread = "INI was not able to parse ";  // CLI11's words for any format
  const std::string why = text::one_line(error.what());
  if (why.starts_with(unread)) return describe_entry(app, why.substr(unread.size()), chosen);
  const std::vector<std::string> names = option_names(app, chosen);
  if (chosen != nullptr) {
    if (const std::string missing = describe_missing_value(*chosen, names); !missing.empty())
      return missing + help;
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&error) || dynamic_cast<const CLI::RequiredError*>(&error)) {
    if (const auto unexpected = describe_unexpected(left, names)) return *unexpected + help;
  }
  return why + help;
}

}  // namespace refine::cli
