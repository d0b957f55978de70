#pragma once

#include <refine/defend/bench_file.hpp>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include <refine/backbones/freeze.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/defend/detail/result_json.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/nn/device.hpp>

namespace refine::detail {

/// True if the options say what a classifier's file does not.
inline bool has_classifier_options(const LoadOptions& options) {
  return !options.arch.empty() || options.stem || !options.key.empty() || !(options.image == ImageShape{}) ||
         options.normalization || options.bgr || !options.output.empty() || !options.class_names.empty();
}

inline FileCost bench_defended(const std::filesystem::path& file, const BenchFileOptions& options) {
  if (!options.defense.empty()) {
    throw Error("--defense: {} is a defended file, which has its defense inside; leave it out",
                file.string());
  }
  if (has_classifier_options(options.parts.victim)) {
    throw Error(
        "cannot use {} with options of a classifier alone, such as --image or --class_names: it is a defended file, "
        "which has all inside; leave them out",
        file.string());
  }
  ExportedClassifier model(file, options.parts.victim.trust ? formats::Trust::blind : formats::Trust::checked,
                           Answer::defended);
  model.to(default_device());
  const std::optional<AlarmSetting> alarm = exported_info(model.about()).alarm;
  return {.task = model.task(),
          .device = model.device(),
          .answers = bench(model, alarm ? std::optional(alarm->threshold) : std::nullopt, options.bench)};
}

inline FileCost bench_parts(const std::filesystem::path& file, const BenchFileOptions& options) {
  SavedDefense parts = load_saved_defense(file, options.defense, options.parts);
  parts.defense.to(default_device());
  const std::optional<AlarmSetting> alarm = alarm_of(json_under(parts.metadata, "alarm"));
  return {
      .task = parts.defense.task(),
      .device = parts.defense.device(),
      .answers = bench(parts.defense, alarm ? std::optional(alarm->threshold) : std::nullopt, options.bench)};
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE FileCost bench_file(const std::filesystem::path& file, const BenchFileOptions& options) {
  if (is_defended_file(file)) return detail::bench_defended(file, options);
  if (!options.defense.empty()) return detail::bench_parts(file, options);
  const LoadedClassifier victim = load_classifier(file, options.parts.victim);
  detail::check_image_size(victim, file.string(), options.parts.victim.notify);
  const auto frozen = freeze(victim.backbone);
  nn::move_to(*frozen.module, default_device());
  return {.task = victim.task(), .device = default_device(), .answers = {bench(frozen, options.bench)}};
}

}  // namespace refine
