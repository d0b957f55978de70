#pragma once

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cmath>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace refine::cli {

/// What every command takes.
struct Common {
  bool json = false;            ///< results as one JSON document on standard output
  std::function<int()> chosen;  ///< runs the command that the user named; its exit status
  std::filesystem::path config = {}, save_config = {};  ///< the files of these options; empty: none
  std::function<void()> write_config = {};              ///< writes `save_config`, once; `begin` calls it
};

/// Exit statuses: done; done, and there is something to look at; refused (`Error::exit_status`).
enum Status { done = 0, look = 1, refused = 2 };

// Each adds its command to `app`; when the user names it, `common.chosen` runs it.
void add_attack(CLI::App& app, Common& common);
void add_completion(CLI::App& app, Common& common);
void add_defend(CLI::App& app, Common& common);
void add_evaluate(CLI::App& app, Common& common);
void add_export(CLI::App& app, Common& common);
void add_inspect(CLI::App& app, Common& common);
void add_predict(CLI::App& app, Common& common);
void add_report(CLI::App& app, Common& common);

/// A check for a number that is `low` or more, or above it, in a sentence that can be read.
inline auto number(double low, bool above = false) {
  return [low, above](const std::string& text) -> std::string {
    double value = 0;
    if (!CLI::detail::lexical_cast(text, value) || !std::isfinite(value)) return text + " is no number";
    if (above ? value > low : value >= low) return "";
    return fmt::format("{} is not {} {}", text, above ? "above" : "at least", low);
  };
}

/// A JSON document in one line; bytes that are not UTF-8, which JSON cannot hold, become U+FFFD.
std::string text_of_json(const nlohmann::ordered_json& json);

/// Prints one JSON document.
void print(const nlohmann::ordered_json& json);

}  // namespace refine::cli
