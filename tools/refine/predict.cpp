// refine predict: what an exported file says of images, and whether the alarm goes off.

#include <ATen/ops/softmax.h>
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/text.hpp>
#include <refine/data/image_files.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/nn/device.hpp>

#include "tools/refine/command.hpp"
#include "tools/refine/paths.hpp"
#include "tools/refine/served_about.hpp"
#include "tools/refine/source.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, class_names_file;
  FitOptions fit;
  std::vector<std::string> images;
  bool trust = false;
};

struct Line {
  fs::path file;
  int cls;
  double probability, alarm;
};

int run(const Options& options, const Common& common) {
  Paths paths{.files = {{"--model", options.model}, {"--class_names", options.class_names_file}}};
  for (const std::string& path : options.images) paths.images.push_back({"predict", path});
  begin(common, std::move(paths));
  ExportedClassifier model(options.model, options.trust ? formats::Trust::blind : formats::Trust::checked);
  model.to(default_device());
  const About about(model.about(), options.class_names_file);
  options.fit.require(model.task().image);
  const data::ResizeMode fit = options.fit.resolved(about.preprocessing);
  std::vector<fs::path> files, passed_over;
  for (const std::string& path : options.images) {
    const auto found = data::image_files(path, &passed_over);
    files.insert(files.end(), found.begin(), found.end());
  }
  data::warn_ignored(passed_over);

  const auto name = [&](int cls) {
    return about.class_names.empty() ? std::to_string(cls) : about.class_names[static_cast<std::size_t>(cls)];
  };
  const auto told = [&](const Line& line) {
    const bool raised = about.alarm && !(line.alarm <= about.alarm->threshold);  // NaN, too
    if (common.json) {
      const auto alarm = about.alarm ? nlohmann::ordered_json(raised) : nlohmann::ordered_json(nullptr);
      const nlohmann::ordered_json json = {{"file", line.file.string()}, {"class", line.cls},
                                           {"name", name(line.cls)},     {"probability", line.probability},
                                           {"alarm_score", line.alarm},  {"alarm", alarm}};
      return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    }
    return fmt::format("{}\t{}\t{:.1f} %{}", printable(line.file.string()), printable(name(line.cls)),
                       100 * line.probability, raised ? fmt::format("\talarm {:.2f}", line.alarm) : "");
  };

  constexpr std::size_t at_once = 256;  // whatever the number of files, memory stays bounded
  std::size_t skipped = 0;
  for (std::size_t begin = 0; begin < files.size(); begin += at_once) {
    const std::vector<fs::path> some(
        files.begin() + static_cast<std::ptrdiff_t>(begin),
        files.begin() + static_cast<std::ptrdiff_t>(std::min(begin + at_once, files.size())));
    data::LoadedImages loaded;
    try {
      loaded = data::load_images(
          some, {.image = model.task().image, .fit = fit, .on_bad = data::OnDecodeError::skip});
    } catch (const Error& error) {  // none of them can be used
      if (files.size() == 1) throw;
      warn_skipped({error.what()});
      skipped += some.size();
      continue;
    }
    warn_skipped(loaded.skipped);
    skipped += loaded.skipped.size();
    const auto say = [&](auto&& answer) {
      return in_batches(answer, loaded.images, model.device(), [](std::int64_t) {});
    };
    const at::Tensor probabilities =
        say([&](const at::Tensor& x) { return at::softmax(model.forward(x), 1); });
    const auto [p, c] = probabilities.max(1);
    const at::Tensor alarm = say([&](const at::Tensor& x) { return model.alarm(x); });
    for (std::size_t i = 0; i < loaded.files.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i);
      std::cout << told({loaded.files[i], static_cast<int>(c[row].item<std::int64_t>()),
                         p[row].item<double>(), alarm[row].item<double>()})
                << '\n';
    }
  }
  std::cout << std::flush;
  return skipped > 0 ? look : done;
}

}  // namespace

void add_predict(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand(
      "predict", "classes of images by a defended file; with --json, a JSON object a line");
  const auto options = std::make_shared<Options>();
  command->add_option("--model", options->model, "a defended file, as refine defend writes it")->required();
  command->add_option("images", options->images, "files or folders")->required();
  command->add_option("--class_names", options->class_names_file,
                      "a text file with one class name a line, in the model's order");
  command->add_flag("--trust", options->trust,
                    "use a file even where its code is no tensor arithmetic alone");
  options->fit.add_to(*command);
  command->footer(
      "A line an image: file, class, probability, and 'alarm' with its score where the victim's own answer "
      "differs so much that a trigger is likely. Exit status 1: some files could not be read.");
  command->callback(
      [&common, options] { common.chosen = [&common, options] { return run(*options, common); }; });
}

}  // namespace refine::cli
