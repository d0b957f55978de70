// refine predict: classes of images by an exported file, and an alarm where a trigger is likely.

#include <fmt/core.h>

#include <cmath>
#include <filesystem>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/data/image_files.hpp>
#include <refine/defend/saved_defense.hpp>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct PredictArguments {
  std::string model, class_names, answer;
  ResizeOptions resize;
  std::vector<std::string> images;
  bool trust = false, reject = false;
};

std::string line_of(const FilePrediction& prediction, const ExportedInfo& info, bool reject,
                    const Common& common) {
  const std::string name = info.class_names.empty()
                               ? std::to_string(prediction.cls)
                               : info.class_names[static_cast<std::size_t>(prediction.cls)];
  const bool raised = info.alarm && !(prediction.alarm <= info.alarm->threshold);  // NaN, too
  if (common.json) {
    const auto alarm = info.alarm ? nlohmann::ordered_json(raised) : nlohmann::ordered_json(nullptr);
    nlohmann::ordered_json json = {
        {"file", prediction.file.string()},      {"class", prediction.cls},         {"name", name},
        {"probability", prediction.probability}, {"alarm_score", prediction.alarm}, {"alarm", alarm}};
    if (raised && reject) json["class"] = json["name"] = json["probability"] = nullptr;
    return text::escape_json_controls(
        json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  }
  // Without the sign that NaN may have: "alarm nan".
  const double score =
      std::isnan(prediction.alarm) ? std::numeric_limits<double>::quiet_NaN() : prediction.alarm;
  const std::string file = text::printable(prediction.file.string());
  if (raised && reject) return fmt::format("{}\trejected\t\talarm {:.2f}", file, score);
  return fmt::format("{}\t{}\t{:.1f} %{}", file, text::printable(name), 100 * prediction.probability,
                     raised ? fmt::format("\talarm {:.2f}", score) : "");
}

int run(const PredictArguments& options, const Common& common) {
  files::Paths paths{.files = {{"--model", options.model}, {"--class_names", options.class_names}}};
  for (const std::string& path : options.images) paths.images.push_back({"predict", path});
  begin(common, std::move(paths));
  const auto [model, info] =
      load_exported(options.model, options.class_names, options.trust, parse_answer(options.answer));
  options.resize.check(model.task().image);
  if (options.reject && !info.alarm) throw Error("--reject: {} has no alarm; leave it out", options.model);
  std::vector<fs::path> files, ignored;
  for (const std::string& path : options.images) {
    const auto found = data::image_files(path, &ignored);
    files.insert(files.end(), found.begin(), found.end());
  }
  data::warn_ignored(ignored);
  const std::size_t skipped =
      predict_files(model, files, options.resize.mode(info.resize).value_or(data::ResizeMode::crop),
                    [&, &info = info](const FilePrediction& p) {
                      std::cout << line_of(p, info, options.reject, common) << '\n';
                    });
  std::cout << std::flush;
  return skipped > 0 ? look : done;
}

}  // namespace

void add_predict(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand(
      "predict", "classes of images by a defended file; with --json, a JSON object a line");
  const auto options = std::make_shared<PredictArguments>();
  command->add_option("--model", options->model, "a defended file, as refine defend writes it")->required();
  command->add_option("images", options->images, "files or folders")->required();
  command->add_option("--class_names", options->class_names,
                      "text file with one class name a line, in the model's order");
  add_answer_to(*command, options->answer, "as the file has it");
  command->add_flag("--reject", options->reject, "give no class to an image that raises the alarm");
  command->add_flag("--trust", options->trust,
                    "use a file even if its code contains more than tensor arithmetic");
  options->resize.add_to(*command);
  command->footer(
      "A line an image: file, class, probability, and 'alarm' with its score where the victim's own answer differs so "
      "much that a trigger is likely. Exit status 1: some files could not be read; 2: none could.");
  run_when_chosen(*command, common, options, run);
}

}  // namespace refine::cli
