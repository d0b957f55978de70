// refine report: results that were written before, as a table or a page.

#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/defend/results.hpp>
#include <refine/report/render.hpp>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct ReportArguments {
  std::vector<std::string> results;
  std::string html;
};

int run(const ReportArguments& options, const Common& common) {
  std::vector<fs::path> metrics;
  for (const std::string& path : options.results) {
    const auto found = find_metrics(path);
    metrics.insert(metrics.end(), found.begin(), found.end());
  }
  files::Paths paths{.outputs = {{"--html", options.html}}};
  for (const fs::path& file : metrics) paths.files.push_back({"report", file});
  begin(common, std::move(paths));
  std::vector<report::DefenseReport> pages;
  for (const fs::path& file : metrics) pages.push_back(report::read_metrics(file));
  if (!options.html.empty()) {
    if (pages.size() != 1) {
      throw Error("--html writes the page of one result, got {}; name one metrics.json", pages.size());
    }
    files::write(options.html, report::html(pages.front()));
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
  const auto options = std::make_shared<ReportArguments>();
  command->add_option("results", options->results, "metrics.json files, or folders with some below")
      ->required();
  command->add_option("--html", options->html, "write the page of a single result to this file");
  run_when_chosen(*command, common, options, run);
}

}  // namespace refine::cli
