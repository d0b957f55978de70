#pragma once

#include <refine/defend/defend.hpp>

#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include <refine/backbones/freeze.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/defend/detail/result_json.hpp>
#include <refine/defend/probe.hpp>
#include <refine/export/pt2.hpp>
#include <refine/export/weights.hpp>
#include <refine/nn/device.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/report/render.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/recipe_json.hpp>

namespace refine::detail {

/// Clean images, divided by their purpose.
struct DividedImages {
  at::Tensor fitted;       ///< the transform is fitted on these
  at::Tensor calibration;  ///< the alarm is calibrated on these
  at::Tensor measured;     ///< the defense is measured on these
};

/// Holds back images for calibration and measuring. The others stay in the tensor's memory, whose
/// last images take the places of those that are held back.
inline DividedImages hold_back(const at::Tensor& images, std::uint64_t seed) {
  const std::int64_t n = images.size(0);
  const std::int64_t held = std::clamp<std::int64_t>(n / 10, 1, 1000);
  if (n < 4) {
    throw Error(
        "cannot defend with {} clean image(s): some are held back to calibrate the alarm and to measure; give as many "
        "as possible, {} or more if you can",
        n, enough_clean_images);
  }
  Random random(derived_seed(seed, "held back"));
  auto order = random_permutation(random, n);
  order.resize(static_cast<std::size_t>(2 * held));
  const at::Tensor places = at::tensor(order);
  DividedImages divided{.fitted = {},
                        .calibration = images.index_select(0, places.narrow(0, 0, held)),
                        .measured = images.index_select(0, places.narrow(0, held, held))};
  const std::int64_t kept = compact(n, {order.begin(), order.end()}, [&](std::int64_t to, std::int64_t from) {
    images.select(0, to).copy_(images.select(0, from));
  });
  divided.fitted = images.narrow(0, 0, kept);
  return divided;
}

/// Removes images without finite logits from a tensor, in place.
inline at::Tensor remove_not_finite(const LoadedClassifier& victim, const at::Tensor& images,
                                    const Notify& notify) {
  const auto bad = images_without_finite_logits(backbones::AnyBackbone(freeze(victim.backbone)), images);
  const std::int64_t kept = compact(
      images.size(0), {bad.begin(), bad.end()},
      [&](std::int64_t to, std::int64_t from) { images.select(0, to).copy_(images.select(0, from)); });
  if (!bad.empty()) {
    warn(
        notify,
        fmt::format("{} of {} images are left out: the victim's logits for them are not finite, as for blank "
                    "images where each image is standardised",
                    bad.size(), images.size(0)));
  }
  return images.narrow(0, 0, kept);
}

/// Returns what a transform sees, for a note.
inline std::string sees_text(const TransformOptions& sized, const ImageShape& image) {
  if (!sized.encoder.file.empty()) return "an encoder sees them";
  return fmt::format("the transform sees {}", scaled(image, sized.see));
}

inline report::Curve agreement_curve(const History& history) {
  report::Curve curve{
      .name = "defense: agreement with the victim", .unit = "%", .x_label = "epoch", .x = {}, .y = {}};
  for (const EpochInfo& epoch : history.epochs) {
    curve.x.push_back(epoch.epoch);
    curve.y.push_back(100 * epoch.accuracy);
  }
  return curve;
}

/// \throws Error if the last step of training diverged, which its loss does not show
inline void check_weights(const AnyPipeline& defense) {
  for (const at::Tensor& weight : defense.transform().module->parameters()) {
    if (weight.isfinite().all().item<bool>()) continue;
    throw Error("training the defense diverged in its last step; lower --lr");
  }
}

REFINE_INLINE Defended defend(const LoadedClassifier& victim, at::Tensor images, const DefendOptions& options,
                              AnyObserver& observer) {
  const Task task = victim.task();
  std::optional<ProbeSummary> probed = options.probed;
  if (!probed && options.probe) {
    probed = probe_victim(victim, images, options.seed, options.notify, !victim.is_normalization_known);
    if (probed->blank_not_finite) images = remove_not_finite(victim, images, options.notify);
  }
  const TransformOptions sized = size_transform(options.transform, victim);
  // What can be refused is, before the images are touched and training starts.
  AnyPipeline pipeline{make_transform(sized, task.image, options.seed), freeze(victim.backbone),
                       remaps::Derangement<>{.classes = task.classes, .seed = options.seed}};
  if (sized.see > 0 || sized.draw > 0) {
    note(options.notify,
         fmt::format("the victim's images are {}; {}, and the victim is asked with {} (--see, --draw)",
                     task.image, sees_text(sized, task.image), pipeline.transform().output_shape));
  }
  const DividedImages divided = hold_back(images, options.seed);
  const std::int64_t held_back = 2 * divided.calibration.size(0), fitted = divided.fitted.size(0);
  const Recipe recipe = options.recipe
                            ? *options.recipe
                            : defense_recipe(options.training, fitted, task.image, options.seed, sized);
  if (fitted + held_back < enough_clean_images && sized.encoder.file.empty()) {
    warn(
        options.notify,
        fmt::format(
            "{} clean images are few; with {}, a defense of CIFAR-10 lost 3.3 to 5.5 points of accuracy, and with fewer "
            "more (docs/lab/clean_images.md)",
            fitted + held_back, enough_clean_images));
  }

  History history;
  fit(pipeline, divided.fitted, recipe, observer, history);
  check_weights(pipeline);

  Defended result{.pipeline = std::move(pipeline),
                  .recipe = recipe,
                  .alarm = {},
                  .report = {},
                  .victim = victim.name,
                  .fitted_images = fitted,
                  .seed = options.seed,
                  .transform = sized,
                  .resize = options.resize};
  result.alarm = calibrate_alarm(result.pipeline, divided.calibration, options.false_alarm_rate);
  Evidence evidence = options.evidence.value_or(Evidence{.clean = divided.measured});
  evidence.alarm = result.alarm;
  evidence.show = options.show;
  if (!options.scan) evidence.scanned = 0;
  report::DefenseReport& report = result.report;
  report.title = options.title.empty() ? victim.name : options.title;
  report.dataset = options.dataset;
  report.model = victim.description;
  report.attack = options.attack;
  report.class_names = victim.class_names;
  report.curves = {agreement_curve(history)};
  measure_defense(result.pipeline, evidence, report);
  if (report.agreement->value() < 0.85) {
    warn(
        options.notify,
        fmt::format(
            "the defended model agrees with the victim on {:.0f} % of clean images; more training, as --epoch "
            "{}, or more images may raise that",
            100 * report.agreement->value(), 2 * recipe.optimization.epochs));
  }
  report.facts = {{"clean images", fmt::format("{} to fit on, {} held back", fitted, held_back)},
                  {"device", default_device().str()},
                  {"seed", std::to_string(options.seed)},
                  {"permutation", numbers_text(result.pipeline.remap().permutation)},
                  {"transform", result.pipeline.transform().describe()},
                  {"recipe", recipe_text(recipe)},
                  {"training", fmt::format("{:.0f} s", history.seconds())},
                  {"LibTorch", TORCH_VERSION}};
  if (probed) report.facts.insert(report.facts.begin(), {"probe", probed->text});
  return result;
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE DefendedFiles Defended::save(const std::filesystem::path& serving) const {
  const DefendedFiles files = DefendedFiles::beside(serving);
  files.check_writable();
  const nlohmann::ordered_json about = {{"victim", victim},
                                        {"model", report.model},
                                        {"clean_images", fitted_images},
                                        {"transform", pipeline.transform().describe()},
                                        {"recipe", nlohmann::ordered_json(recipe)},
                                        {"seed", seed},
                                        {"class_names", report.class_names},
                                        {"preprocessing", detail::json_of(resize)},
                                        {"alarm", detail::json_of(alarm)},
                                        {"figures", detail::headline(report)},
                                        {"libtorch", TORCH_VERSION}};
  export_defense(pipeline, files.serving, about);
  std::map<std::string, std::string> metadata = {{"image", fmt::format("{}", pipeline.task().image)},
                                                 {"alarm", detail::json_of(alarm).dump()},
                                                 {"preprocessing", detail::json_of(resize).dump()},
                                                 {"class_names", detail::json_line(report.class_names)}};
  if (transform.see > 0)
    metadata["sees"] = fmt::format("{}", detail::scaled(pipeline.task().image, transform.see));
  if (transform.see > 0 || transform.draw > 0 || !transform.encoder.file.empty())
    metadata["draws"] = fmt::format("{}", pipeline.transform().output_shape);
  refine::save(pipeline, files.weights, recipe, std::move(metadata));
  report::write_report(report, files.report);
  return files;
}

}  // namespace refine
