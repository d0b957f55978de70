#pragma once

#include <refine/defend/evaluate_folder.hpp>

#include <ATen/ops/tensor.h>

#include <utility>
#include <vector>

#include <refine/attacks/by_name.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/defend/measure.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/nn/device.hpp>

namespace refine {

REFINE_INLINE EvaluatedFolder evaluate_folder(const ExportedClassifier& model, const ExportedInfo& info,
                                              const std::filesystem::path& folder,
                                              const FolderEvaluation& options) {
  if (!options.triggered.empty() && !options.attack.empty()) {
    throw Error("specify either --triggered or --attack, not both");
  }
  const Task task = model.task();
  Evidence evidence{.alarm = info.alarm, .scanned = options.scanned, .show = options.show};
  FolderImages images;
  if (options.triggered.empty()) {
    images = read_folder_images(folder, task.image, options.images);
  } else {
    auto [clean, triggered] = read_image_pairs(folder, options.triggered, task.image, options.images);
    images = std::move(clean);
    evidence.triggered = std::move(triggered);
  }
  evidence.clean = images.images;
  const auto predictions = [&] {
    return classify([&](const at::Tensor& x) { return model.undefended(x); }, images.images, model.device(),
                    [](std::int64_t) {});
  };
  evidence.test = label_by_folders(images, {.labels = options.labels,
                                            .class_names = info.class_names,
                                            .classes = task.classes,
                                            .predictions = predictions,
                                            .notify = options.notify});
  evidence.target = options.target;
  EvaluatedFolder result{
      .report = {.dataset = folder.string(), .model = info.model, .class_names = info.class_names},
      .skipped = images.skipped};
  if (!options.triggered.empty()) result.report.attack = "given images";
  if (!options.attack.empty()) {
    const auto attack =
        attacks::by_name(options.attack, {.image = task.image, .target = options.target.value_or(0)});
    result.report.attack = attack.name;
    if (!attack.target) throw Error("{} has no trigger to put on images; leave --attack out", attack.name);
    evidence.triggered = attack.trigger_images(images.images);
    if (!options.target) evidence.target = attack.target;
  }
  if (evidence.target && *evidence.target >= task.classes) {
    throw Error("--tlabel must be less than the model's {} classes, got {}", task.classes, *evidence.target);
  }
  result.report.facts = {{"images", std::to_string(evidence.clean.size(0))},
                         {"device", default_device().str()}};
  if (evidence.triggered && !evidence.test) {
    std::vector<std::string> names = info.class_names;
    for (int c = static_cast<int>(names.size()); c < task.classes; ++c)
      names.push_back("class " + std::to_string(c));
    evidence.test = data::Dataset{
        .images = evidence.clean, .labels = at::tensor(predictions()), .classes = std::move(names)};
    result.report.facts.emplace_back("labels",
                                     "none: the victim's own answers to the clean images stand for them");
  }
  measure_defense(model, evidence, result.report);
  return result;
}

}  // namespace refine
