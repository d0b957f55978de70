// refine evaluate: what an exported file does on images, with a trigger or without knowing one.

#include <ATen/ops/tensor.h>
#include <fmt/core.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/export/exported_classifier.hpp>
#include <refine/nn/device.hpp>

#include "tools/refine/command.hpp"
#include "tools/refine/labels.hpp"
#include "tools/refine/measure.hpp"
#include "tools/refine/paths.hpp"
#include "tools/refine/results.hpp"
#include "tools/refine/served_about.hpp"
#include "tools/refine/source.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, images, triggered, attack, report, class_names_file;
  bool trust = false;
  int tlabel = -1;
  std::int64_t limit = 0, scanned = 1000;
  LabelOptions labels;
  FitOptions fit;
};

/// The images of both folders that have the same path below them, in one order.
std::pair<Images, at::Tensor> pairs(const Options& options, const ImageShape& shape, data::ResizeMode fit) {
  Images clean = read_images(options.images, shape, fit, options.limit);
  const Images with = read_images(options.triggered, shape, fit);
  const auto key = [](const fs::path& file, const std::string& root) {
    return file.lexically_relative(root).replace_extension().string();
  };
  std::map<std::string, std::int64_t> place;
  for (std::size_t i = 0; i < with.files.size(); ++i) {
    if (!place.emplace(key(with.files[i], options.triggered), static_cast<std::int64_t>(i)).second) {
      throw Error("cannot pair the images: {} and another differ in their extension alone; rename one",
                  with.files[i].string());
    }
  }
  std::vector<std::int64_t> order;
  for (const fs::path& file : clean.files) {
    const auto found = place.find(key(file, options.images));
    if (found == place.end()) {
      throw Error(
          "cannot pair the images: {} has no counterpart in {}; give both folders the same file names",
          file.string(), options.triggered);
    }
    order.push_back(found->second);
  }
  return {std::move(clean), with.images.index_select(0, at::tensor(order))};
}

/// The class that the victim gives each image.
std::vector<std::int64_t> answers_of_victim(const ExportedClassifier& model, const at::Tensor& clean) {
  return classify([&](const at::Tensor& x) { return model.undefended(x); }, clean, model.device(),
                  [](std::int64_t) {});
}

/// Where nobody gives labels, the victim's own answers to the clean images stand for them.
data::Dataset labelled_by_victim(const ExportedClassifier& model, const at::Tensor& clean,
                                 std::vector<std::string> names) {
  const auto own = answers_of_victim(model, clean);
  if (names.empty()) {
    for (int c = 0; c < model.task().classes; ++c) names.push_back("class " + std::to_string(c));
  }
  return {.images = clean, .labels = at::tensor(own), .classes = std::move(names)};
}

int run(const Options& options, const Common& common) {
  Paths paths{.files = {{"--model", options.model}, {"--class_names", options.class_names_file}},
              .images = {{"--images", options.images}, {"--triggered", options.triggered}}};
  if (!options.report.empty()) paths.outputs = report_files("--report", options.report);
  begin(common, std::move(paths));
  if (!options.triggered.empty() && !options.attack.empty()) {
    throw Error("say either --triggered or --attack, not both");
  }
  ExportedClassifier model(options.model, options.trust ? formats::Trust::blind : formats::Trust::checked);
  model.to(default_device());
  const About about(model.about(), options.class_names_file);
  const Task task = model.task();
  options.fit.require(task.image);
  const data::ResizeMode fit = options.fit.resolved(about.preprocessing);

  Evidence evidence{.clean = {}, .scanned = options.scanned};
  evidence.alarm = about.alarm;
  Images images;
  if (options.triggered.empty()) {
    images = read_images(options.images, task.image, fit, options.limit);
  } else {
    auto [clean, with] = pairs(options, task.image, fit);
    images = std::move(clean);
    evidence.triggered = std::move(with);
  }
  evidence.clean = images.images;
  evidence.test = labelled(images, about.class_names, task.classes, options.labels,
                           [&] { return answers_of_victim(model, images.images); });
  if (options.tlabel >= 0) evidence.target = options.tlabel;
  std::string attack_name = options.triggered.empty() ? "" : "given images";
  if (!options.attack.empty()) {
    const auto attack =
        attacks::by_name(options.attack, {.image = task.image, .target = std::max(options.tlabel, 0)});
    attack_name = attack.name;
    if (!attack.target) throw Error("{} has no trigger to put on images; leave --attack out", attack.name);
    evidence.triggered = attack.trigger_images(images.images);
    if (options.tlabel < 0) evidence.target = attack.target;
  }
  if (evidence.target && *evidence.target >= task.classes) {
    throw Error("target class {} is none of the model's {}; say 0 to {}", *evidence.target, task.classes,
                task.classes - 1);
  }

  report::DefenseReport page{.title = fs::path(options.model).filename().string(),
                             .dataset = options.images,
                             .model = about.model,
                             .attack = attack_name,
                             .class_names = about.class_names};
  page.facts = {{"images", std::to_string(evidence.clean.size(0))}, {"device", default_device().str()}};
  if (evidence.triggered && !evidence.test) {
    evidence.test = labelled_by_victim(model, evidence.clean, about.class_names);
    page.facts.emplace_back("labels", "none: the victim's own answers to the clean images stand for them");
  }
  measure(model, evidence, page);
  std::vector<std::pair<std::string, fs::path>> files;
  if (!options.report.empty()) {
    report::write_report(page, options.report);
    files.emplace_back("report", fs::path(options.report) / "report.html");
  }
  show(common, page, files);
  return images.skipped > 0 ? look : done;
}

}  // namespace

void add_evaluate(CLI::App& app, Common& common) {
  auto* command =
      app.add_subcommand("evaluate", "what a defended file does: with a trigger, or without knowing one");
  const auto options = std::make_shared<Options>();
  command->add_option("--model", options->model, "a defended file, as refine defend writes it")->required();
  command
      ->add_option(
          "--images", options->images,
          "clean images; class folders (<class>/<image>) give accuracy, other layouts do without labels")
      ->required();
  command->add_option("--triggered", options->triggered,
                      "the same images with the trigger, under the same names");
  command->add_option("--attack", options->attack,
                      "put the trigger of this attack on the images: " + attack_names());
  command->add_option("--tlabel", options->tlabel, "the class the attacker wants, counted from 0")
      ->check(number(0));
  command->add_option("--class_names", options->class_names_file,
                      "a text file with one class name a line, in the model's order");
  options->labels.add_to(*command);
  command->add_option("--limit", options->limit, "use no more than so many images")->check(number(0));
  command
      ->add_option("--scan", options->scanned, "images that the scan for common triggers takes; 0: no scan")
      ->check(number(0))
      ->capture_default_str();
  command->add_flag("--trust", options->trust,
                    "use a file even where its code is no tensor arithmetic alone");
  options->fit.add_to(*command);
  command->add_option("--report", options->report,
                      "write report.html, metrics.json and images.png into this folder");
  command->callback(
      [&common, options] { common.chosen = [&common, options] { return run(*options, common); }; });
}

}  // namespace refine::cli
