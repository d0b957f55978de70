// refine inspect: what model files contain, without running any of it.

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/defend/inspect.hpp>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

using nlohmann::ordered_json;

struct InspectArguments {
  std::vector<std::string> files;
  std::string sarif;
  InspectOptions inspect;
};

/// Returns "; 2 other files and 1 linked folder passed over; 1 folder cannot be listed"; "" if all files of the folders
/// were inspected.
std::string passed_over(const ModelFiles& files) {
  const auto counted = [](std::size_t n, const char* what) {
    return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
  };
  std::string text;
  if (files.ignored > 0) text = counted(files.ignored, "other file");
  if (files.linked_folders > 0)
    text += (text.empty() ? "" : " and ") + counted(files.linked_folders, "linked folder");
  if (!text.empty()) text = "; " + text + " passed over";
  if (files.unreadable_folders > 0)
    text += "; " + counted(files.unreadable_folders, "folder") + " cannot be listed";
  return text;
}

void print_text(const std::vector<Inspection>& inspections, bool brief, const ModelFiles& files) {
  for (const Inspection& inspection : inspections) {
    if (inspection.error) {
      std::cout << text::printable(inspection.summary) << '\n';
      continue;
    }
    std::cout << text::printable(inspection.file) << ": " << inspection.summary << '\n';
    if (!brief) {
      std::cout << inspection.details;
      continue;
    }
    for (const InspectionFinding& finding : inspection.findings) {
      std::cout << fmt::format("  {}: {}\n", finding.rule_of().level, text::printable(finding.text));
    }
  }
  if (brief) {
    const auto accepted = std::ranges::count_if(inspections, &Inspection::is_fine);
    const auto without_objection = std::ranges::count_if(inspections, &Inspection::has_only_notes);
    std::cout << fmt::format("{} {} inspected, {} refused", inspections.size(),
                             inspections.size() == 1 ? "file" : "files",
                             static_cast<std::ptrdiff_t>(inspections.size()) - without_objection);
    if (without_objection > accepted) std::cout << fmt::format(", {} not read", without_objection - accepted);
    std::cout << passed_over(files) << '\n';
  }
  std::cout << std::flush;
}

/// True if a file has weights, or cannot be read, which is reported.
bool may_have_keys(const Inspection& inspection) {
  return inspection.error || inspection.json["kind"] == "weights";
}

int run(const InspectArguments& options, const Common& common) {
  const ModelFiles found = find_model_files(options.files);
  files::Paths paths{.outputs = {{"--sarif", options.sarif}}};
  for (const std::string& file : found.files) paths.files.push_back({"inspect", file});
  begin(common, std::move(paths));
  std::vector<Inspection> inspections;
  for (const std::string& file : found.files) inspections.push_back(inspect_file(file, options.inspect));
  if (!options.inspect.key.empty() && !std::ranges::any_of(inspections, may_have_keys)) {
    throw Error("--key: selects weights of a checkpoint, and {} a program; leave it out",
                found.files.size() == 1 ? found.files.front() + " is" : "each of the files is");
  }
  if (!options.sarif.empty()) {
    const std::string log = sarif(inspections).dump(2, ' ', false, ordered_json::error_handler_t::replace);
    files::write(options.sarif, text::escape_json_controls(log) + "\n");
  }
  std::error_code unknown;
  const bool is_one =
      options.files.size() == 1 && !std::filesystem::is_directory(options.files.front(), unknown);
  if (is_one && inspections.front().error) std::rethrow_exception(inspections.front().error);
  if (common.json) {
    ordered_json all = ordered_json::array();
    for (const Inspection& inspection : inspections) all.push_back(inspection.json);
    print(is_one ? all.front()
                 : ordered_json{{"files", all},
                                {"passed_over", found.ignored},
                                {"linked_folders", found.linked_folders},
                                {"unreadable_folders", found.unreadable_folders}});
  } else {
    print_text(inspections, !is_one, found);
  }
  return found.unreadable_folders == 0 && std::ranges::all_of(inspections, &Inspection::is_fine) ? done
                                                                                                 : look;
}

}  // namespace

void add_inspect(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("inspect", "what model files contain, without running any of it");
  const auto options = std::make_shared<InspectArguments>();
  command
      ->add_option(
          "files", options->files,
          "TorchScript files, .pt2 of torch.export, ONNX files, safetensors, files of torch.save, or folders with such files")
      ->required();
  command->add_option("--key", options->inspect.key,
                      "which weights of a checkpoint to list; left out: found by content");
  command->add_option("--sarif", options->sarif, "write the findings to this file, as SARIF 2.1.0");
  command->add_flag("--code", options->inspect.code, "print a program's source, too");
  command->footer(
      "Exit status 1: a program that refine would refuse to run, or, of several files, one that it cannot read, or a folder "
      "that cannot be listed.");
  run_when_chosen(*command, common, options, run);
}

}  // namespace refine::cli
