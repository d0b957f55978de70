#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace refine::cli {

/// What every command takes.
struct Common {
  bool json = false;            ///< results as one JSON document on standard output
  std::function<int()> chosen;  ///< runs the command that the user named; its exit status
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

/// Prints one JSON document.
void print(const nlohmann::ordered_json& json);

}  // namespace refine::cli
