// refine report: results that were written before, as one table or as pages.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/file.hpp>
#include <refine/report/html.hpp>
#include <refine/report/json.hpp>
#include <refine/report/terminal.hpp>

#include "tools/refine/command.hpp"
#include "tools/refine/paths.hpp"
#include "tools/refine/results.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> results;
  std::string html;
};

/// The metrics files that a path means: itself, or all below it.
void collect(const fs::path& path, std::vector<fs::path>& files) {
  std::error_code unknown;
  if (!fs::is_directory(path, unknown)) {
    files.push_back(path);
    return;
  }
  std::vector<fs::path> found;
  for (fs::recursive_directory_iterator at(path, unknown), end; !unknown && at != end;
       at.increment(unknown)) {
    if (at->path().filename() == "metrics.json") found.push_back(at->path());
  }
  if (found.empty()) {
    throw Error("cannot report on {}: there is no metrics.json below it; name a folder of results",
                path.string());
  }
  std::ranges::sort(found);
  files.insert(files.end(), found.begin(), found.end());
}

int run(const Options& options, const Common& common) {
  std::vector<fs::path> files;
  for (const std::string& path : options.results) collect(path, files);
  Paths paths{.outputs = {{"--html", options.html}}};
  for (const fs::path& file : files) paths.files.push_back({"report", file});
  begin(common, std::move(paths));
  std::vector<report::DefenseReport> pages;
  for (const fs::path& file : files) pages.push_back(report::read_metrics(file));
  if (!options.html.empty()) {
    if (pages.size() != 1) {
      throw Error("--html makes a page of one result, {} were given; name one metrics.json", pages.size());
    }
    write_file(options.html, report::html(pages.front()));
  }
  if (common.json) {
    auto all = nlohmann::ordered_json::array();
    for (const auto& page : pages) all.push_back(report::metrics_json(page));
    std::cout << report::metrics_text(all) << std::flush;
  } else if (pages.size() == 1) {
    show(common, pages.front(), {});
  } else {
    std::cout << report::comparison_markdown(pages);
  }
  return done;
}

}  // namespace

void add_report(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("report", "one result as a table, or several as one Markdown table");
  const auto options = std::make_shared<Options>();
  command->add_option("results", options->results, "metrics.json files, or folders with some below")
      ->required();
  command->add_option("--html", options->html, "write the page of a single result to this file");
  command->callback(
      [&common, options] { common.chosen = [&common, options] { return run(*options, common); }; });
}

}  // namespace refine::cli
