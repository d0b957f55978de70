// refine evaluate: measures an exported file on images, with a trigger or without knowing one.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/defend/saved_defense.hpp>
#include <refine/report/render.hpp>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct EvaluateArguments {
  std::string model, images, triggered, attack, report, class_names, answer;
  bool trust = false;
  int tlabel = -1, source = -1;
  std::int64_t limit = 0;
  std::optional<std::int64_t> scanned;
  LabelOptions labels;
  ResizeOptions resize;
};

int run(const EvaluateArguments& options, const Common& common) {
  files::Paths paths{.files = {{"--model", options.model}, {"--class_names", options.class_names}},
                     .images = {{"--images", options.images}, {"--triggered", options.triggered}}};
  check_class_options(options.attack, options.tlabel >= 0, options.source >= 0);
  if (options.tlabel >= 0 && options.attack.empty() && options.triggered.empty())
    throw Error("--tlabel is for --attack or --triggered, images with a trigger; leave it out");
  if (options.scanned.value_or(0) > 0 && !(options.attack.empty() && options.triggered.empty())) {
    throw Error(
        "--scan is for images without a trigger, and --attack and --triggered measure one; leave it out (got {})",
        *options.scanned);
  }
  if (!options.report.empty()) paths.outputs = report_files("--report", options.report);
  begin(common, std::move(paths));
  if (!options.report.empty()) AtomicFile(fs::path(options.report) / "report.html");  // found before the work
  auto [model, info] = load_exported(options.model, options.class_names, options.trust, Answer::defended);
  info.answer = parse_answer(options.answer).value_or(info.answer);
  options.resize.check(model.task().image);
  FolderEvaluation evaluation{
      .images = {.resize = options.resize.mode(info.resize), .max_images = options.limit},
      .triggered = options.triggered,
      .attack = options.attack,
      .labels = options.labels.labels(),
      .show = true,
      .notify = print_notices()};
  if (options.scanned) evaluation.scanned = *options.scanned;
  if (options.tlabel >= 0) evaluation.target = options.tlabel;
  if (options.source >= 0) evaluation.source = options.source;
  auto [page, skipped] = evaluate_folder(model, info, options.images, evaluation);
  page.title = fs::path(options.model).filename().string();
  if (info.defense == "student") page.title += " (student)";
  std::vector<std::pair<std::string, fs::path>> files;
  if (!options.report.empty()) {
    report::write_report(page, options.report);
    files.emplace_back("report", fs::path(options.report) / "report.html");
  }
  const Status status = show(common, page, files);
  return skipped > 0 ? look : status;
}

}  // namespace

void add_evaluate(CLI::App& app, Common& common) {
  auto* command =
      app.add_subcommand("evaluate", "measures a defended file: with a trigger, or without knowing one");
  const auto options = std::make_shared<EvaluateArguments>();
  command->add_option("--model", options->model, "a defended file, as refine defend writes it")->required();
  command
      ->add_option(
          "--images", options->images,
          "clean images; class folders (<class>/<image>) give accuracy, other layouts are used without labels")
      ->required();
  command->add_option("--triggered", options->triggered,
                      "the same images with the trigger, under the same names");
  command->add_option("--attack", options->attack,
                      "put the trigger of this attack on the images: " + attack_names());
  command
      ->add_option(
          "--tlabel", options->tlabel,
          "class that the attacker wants, counted from 0; left out: 0 with --attack, unknown with --triggered")
      ->check(number(0));
  command
      ->add_option("--source", options->source,
                   "SourceSpecific: class whose images the attacker moves; left out: 1")
      ->check(number(0));
  command->add_option("--class_names", options->class_names,
                      "text file with one class name a line, in the model's order");
  options->labels.add_to(*command);
  command->add_option("--limit", options->limit, "use at most this many images; 0: all")->check(number(0));
  command
      ->add_option(
          "--scan", options->scanned,
          "images that the scan for common triggers takes; 0: no scan; left out: 1000, and none with "
          "--attack or --triggered, whose trigger is known")
      ->check(number(0));
  add_answer_to(*command, options->answer,
                "as the file has it; both are measured, and the verdict judges this one");
  command->add_flag("--trust", options->trust,
                    "use a file even if its code contains more than tensor arithmetic");
  options->resize.add_to(*command);
  command->add_option("--report", options->report,
                      "write report.html, metrics.json and images.png into this folder");
  run_when_chosen(*command, common, options, run);
}

}  // namespace refine::cli
