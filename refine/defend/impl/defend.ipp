#pragma once

#include <refine/defend/defend.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include <refine/backbones/freeze.hpp>
#include <refine/baselines/substitutes.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/near_duplicates.hpp>
#include <refine/data/resize.hpp>
#include <refine/defend/detail/hold_back.hpp>
#include <refine/defend/detail/prepared_defense.hpp>
#include <refine/defend/detail/result_json.hpp>
#include <refine/defend/probe.hpp>
#include <refine/distributed/exchange.hpp>
#include <refine/export/export_defense.hpp>
#include <refine/export/weights.hpp>
#include <refine/nn/device.hpp>
#include <refine/report/render.hpp>
#include <refine/report/verdict.hpp>
#include <refine/training/detail/ranks.hpp>
#include <refine/training/recipe_json.hpp>

namespace refine::detail {

REFINE_INLINE std::int64_t held_back_each(std::int64_t images) {
  if (images < 4) {
    throw Error(
        "cannot defend with {} clean image(s): some are held back to calibrate the alarm and to measure; give as many "
        "as possible, {} or more if you can",
        images, enough_clean_images);
  }
  return std::clamp<std::int64_t>(images / 10, 1, 1000);
}

REFINE_INLINE HeldBack draw_held_back(const at::Tensor& images, std::uint64_t seed, std::int64_t extra) {
  const std::int64_t n = images.size(0) - extra, held = held_back_each(n);
  const std::int64_t max_group = std::max(held / 8, std::min<std::int64_t>(held, 8));
  Random random(derived_seed(seed, "held back"));
  const auto order = random_permutation(random, n);
  data::NearDuplicates duplicates(images.slice(0, extra));
  HeldBack result;
  std::set<std::int64_t> taken;
  std::vector<std::vector<std::int64_t>> groups;  // as far as they are known; empty: part of another one
  std::map<std::int64_t, std::size_t> known;      // an image's group
  const auto find_group = [&](std::int64_t image) {
    if (const auto found = known.find(image); found != known.end()) return found->second;
    const std::size_t group = groups.size();
    constexpr std::int64_t max_size = 1000;  // of a larger one, a later search meets what is known
    groups.push_back(duplicates.group_of(image, max_size));
    std::vector<std::int64_t> earlier;
    for (const std::int64_t member : groups[group]) {
      if (const auto [place, is_new] = known.emplace(member, group); !is_new && place->second != group) {
        std::vector<std::int64_t> other = std::exchange(groups[place->second], {});
        for (const std::int64_t each : other) known[each] = group;
        earlier.insert(earlier.end(), other.begin(), other.end());
      }
    }
    const std::set<std::int64_t> found(groups[group].begin(), groups[group].end());
    std::erase_if(earlier, [&](std::int64_t member) { return found.contains(member); });
    groups[group].insert(groups[group].end(), earlier.begin(), earlier.end());
    return group;
  };
  const auto count_taken = [&](const std::vector<std::int64_t>& group) {
    return std::ranges::count_if(group, [&](std::int64_t image) { return taken.contains(image); });
  };
  std::size_t next = 0;
  for (const bool is_calibration : {true, false}) {
    const std::size_t end = result.places.size() + static_cast<std::size_t>(held);
    std::set<std::int64_t> drawn;  // images of groups of which this part has some
    while (result.places.size() < end) {
      constexpr std::size_t ahead = 128;
      if (next % ahead == 0)
        duplicates.prepare(std::span(order).subspan(next, std::min(ahead, order.size() - next)));
      const std::int64_t image = order[next++];
      if (!taken.insert(image).second) continue;
      result.places.push_back(image);
      const std::vector<std::int64_t>& group = groups[find_group(image)];
      // A large group keeps its share of the images: it brings several once, and then the one that is drawn.
      const bool is_first = std::ranges::none_of(group, [&](auto member) { return drawn.contains(member); });
      drawn.insert(group.begin(), group.end());
      std::int64_t left = is_first ? max_group - 1 : 0;
      for (const std::int64_t member : group) {
        if (left == 0 || result.places.size() == end) break;
        if (!taken.insert(member).second) continue;
        result.places.push_back(member);
        --left;
      }
    }
    if (is_calibration) result.calibration_groups = std::ranges::count_if(groups, count_taken);
  }
  for (const auto& group : groups) {
    if (const auto count = count_taken(group); count < std::ssize(group)) result.repeated += count;
  }
  if (extra == 0) return result;
  for (std::int64_t& place : result.places) place += extra;
  data::NearDuplicates all(images);
  all.prepare(result.places);
  std::set<std::int64_t> repeats, seen;
  for (const std::int64_t place : result.places) {
    if (seen.contains(place)) continue;  // its group is that of an earlier place
    for (const std::int64_t member : all.group_of(place, images.size(0))) {
      seen.insert(member);
      if (member < extra) repeats.insert(member);
    }
  }
  result.repeats.assign(repeats.begin(), repeats.end());
  return result;
}

REFINE_INLINE TakenImages::TakenImages(at::Tensor images, const std::vector<std::int64_t>& places)
    : images_(std::move(images)),
      places_(at::tensor(places, at::kLong)),
      taken_(images_.index_select(0, places_)) {
  const std::int64_t kept = compact(
      images_.size(0), {places.begin(), places.end()},
      [&](std::int64_t to, std::int64_t from) { images_.select(0, to).copy_(images_.select(0, from)); });
  left_ = images_.narrow(0, 0, kept);
}

REFINE_INLINE TakenImages::~TakenImages() {
  for (std::int64_t i = 0; i < places_.size(0); ++i)
    images_.select(0, places_[i].item<std::int64_t>()).copy_(taken_.select(0, i));
}

REFINE_INLINE DividedImages hold_back(const at::Tensor& images, std::uint64_t seed, std::int64_t extra) {
  HeldBack drawn = draw_held_back(images, seed, extra);
  const auto held = static_cast<std::int64_t>(drawn.places.size());
  const std::int64_t left = extra - static_cast<std::int64_t>(drawn.repeats.size());
  // Clean images, which are the last, also take the places behind the other pictures that are left.
  for (std::int64_t place = left; place < extra; ++place) drawn.places.push_back(place);
  return {.repeats = {images.slice(0, 0, extra), drawn.repeats},
          .held_back = {images, drawn.places},
          .each = held / 2,
          .calibration_groups = drawn.calibration_groups,
          .repeated = drawn.repeated,
          .extra = left};
}

/// Returns the places of images without finite logits, and warns of them.
inline std::vector<std::int64_t> not_finite(const LoadedClassifier& victim, const at::Tensor& images,
                                            const Notify& notify) {
  const auto bad = images_without_finite_logits(backbones::AnyBackbone(freeze(victim.backbone)), images);
  if (!bad.empty()) {
    warn(
        notify,
        fmt::format("{} of {} images are left out: the victim's logits for them are not finite, as for blank "
                    "images where each image is standardised",
                    bad.size(), images.size(0)));
  }
  return {bad.begin(), bad.end()};
}

/// Returns the other pictures as the victim is asked about them: at half of their resolution
/// (docs/lab/clean_images.md). N×C×H×W, where N may be 0.
/// \param are_blank_left_out whether the victim's logits may not be finite
/// \throws Error if they do not fit the images
inline at::Tensor other_pictures(const LoadedClassifier& victim, const at::Tensor& images,
                                 const DefendOptions& options, bool are_blank_left_out) {
  at::Tensor pictures = options.extra.to(images.device());
  if (pictures.dim() != 4 || pictures.scalar_type() != at::kByte ||
      pictures.sizes().slice(1) != images.sizes().slice(1)) {
    throw Error("extra: must be uint8 N×{} as the clean images, got {} {}",
                fmt::join(images.sizes().slice(1), "×"), c10::toString(pictures.scalar_type()),
                fmt::join(pictures.sizes(), "×"));
  }
  pictures = data::at_half_resolution(pictures);
  if (!are_blank_left_out) return pictures;
  const std::vector<std::int64_t> bad = not_finite(victim, pictures, options.notify);
  at::Tensor is_good = at::ones({pictures.size(0)}, at::kBool);
  for (const std::int64_t place : bad) is_good[place] = false;
  return pictures.index({is_good});
}

/// Returns at which sizes a defense works, for a note; empty if it works at that of the images.
inline std::string sizes_text(const SizedDefense& sized, const TrainedDefense& defense,
                              const ImageShape& image) {
  const bool has_encoder = !sized.encoder().file.empty();
  if (sized.student) {
    if (sized.student->see == 0) return {};
    return fmt::format("the victim's images are {}; the {} sees {} (--see)", image,
                       has_encoder ? "encoder" : "student", scaled(image, sized.student->see));
  }
  if (sized.transform.see == 0 && sized.transform.draw == 0) return {};
  return fmt::format("the victim's images are {}; {}, and the victim is asked with {} (--see, --draw)", image,
                     has_encoder ? "an encoder sees them"
                                 : fmt::format("the transform sees {}", scaled(image, sized.transform.see)),
                     defense.pipeline()->transform().output_shape);
}

/// Decides whether the training mirrors images, unless the caller or the recipe has: not if the victim
/// gives mirrored images other classes. Behind an encoder, none are.
inline TrainingOptions decide_flips(const LoadedClassifier& victim, const at::Tensor& images,
                                    const DefendOptions& options) {
  TrainingOptions training = options.training;
  const bool is_decided = training.flip || options.recipe || training.recipe == RecipeChoice::paper ||
                          !options.transform.encoder.file.empty() ||
                          (options.student && !options.student->encoder.file.empty());
  if (is_decided || !options.probe) return training;
  const MirrorAgreement agreement = mirror_agreement(backbones::AnyBackbone(freeze(victim.backbone)), images);
  if (!agreement.is_mirror_different()) return training;
  training.flip = false;
  note(options.notify,
       fmt::format(
           "images are not mirrored in training: the victim gives {:.0f} % of {} mirrored images their "
           "class, and {:.0f} % of the same images shifted a little; --flip on mirrors them all the same",
           100 * agreement.mirrored.value(), agreement.mirrored.n, 100 * agreement.shifted.value()));
  return training;
}

inline report::Curve agreement_curve(const History& history, const TrainedDefense& defense) {
  report::Curve curve{
      .name = fmt::format("{}: agreement with the victim", defense.student() ? "student" : "defense"),
      .unit = "%",
      .x_label = "epoch",
      .x = {},
      .y = {}};
  for (const EpochInfo& epoch : history.epochs) {
    curve.x.push_back(epoch.epoch);
    curve.y.push_back(100 * epoch.accuracy);
  }
  return curve;
}

/// Returns the agreement with the victim on at most 1,000 of the images that the defense was fitted on.
inline metrics::Proportion agreement_on_fitted(const TrainedDefense& defense, const at::Tensor& fitted) {
  return label_agreement(defense, data::evenly_spread(fitted, 1000));
}

/// True if an agreement is at least 5 points above another one, at the lower end of the 95 % interval of
/// the difference.
inline bool is_far_above(const metrics::Proportion& fitted, const metrics::Proportion& others) {
  const auto variance = [](const metrics::Proportion& p) {
    return p.value() * (1 - p.value()) / static_cast<double>(p.n);
  };
  const double deviation = std::sqrt(variance(fitted) + variance(others));
  return fitted.value() - others.value() - metrics::z95 * deviation > 0.05;
}

/// \throws Error if the last step of training diverged, which its loss does not show
inline void check_weights(const TrainedDefense& defense) {
  for (const at::Tensor& weight : defense.trained().parameters()) {
    if (weight.isfinite().all().item<bool>()) continue;
    throw Error("training the defense diverged in its last step; lower --lr");
  }
}

/// Warns if the clean images are few, with what may help.
/// \param clean their number
inline void warn_of_few_images(std::int64_t clean, const ImageShape& image, const SizedDefense& sized,
                               const DefendOptions& options) {
  if (clean >= enough_clean_images || !sized.encoder().file.empty()) return;
  constexpr int measured_side = 96;  // what helps was measured with small images only
  std::vector<std::string> helps;
  if (std::max(image.height, image.width) <= measured_side) {
    if (!options.extra.defined()) helps.emplace_back("other pictures beside them (--extra)");
    if (!sized.student) helps.emplace_back("a student (--defense student)");
  }
  const std::string help = helps.empty() ? "" : fmt::format("; {} may help", fmt::join(helps, " or "));
  warn(options.notify,
       sized.student
           ? fmt::format("{} clean images are few; a student learns more from {} or more{}", clean,
                         enough_clean_images, help)
           : fmt::format("{} clean images are few; with {}, a defense of CIFAR-10 lost 3.3 to 5.5 points of "
                         "accuracy, and with fewer more (docs/lab/clean_images.md){}",
                         clean, enough_clean_images, help));
}

/// Warns if the defense remembers images, or agrees with the victim too rarely.
/// \param on_fitted agreement with the victim on the images that the defense was fitted on
/// \param agreement on others
inline void warn_of_agreement(const metrics::Proportion& on_fitted, const metrics::Proportion& agreement,
                              int epochs, const Notify& notify) {
  if (is_far_above(on_fitted, agreement)) {
    warn(notify,
         fmt::format(
             "the defended model agrees with the victim on {:.1f} % of the images that it was fitted on, "
             "and on {:.1f} % of others: it remembers images, and the alarm may be raised more often on new "
             "ones; more images help, or fewer epochs",
             100 * on_fitted.value(), 100 * agreement.value()));
  }
  if (agreement.value() < report::Verdict::min_agreement) {
    warn(notify, fmt::format("the defended model agrees with the victim on {:.0f} % of clean images; more "
                             "training, as --epoch {}, or more images may raise that",
                             100 * agreement.value(), 2 * epochs));
  }
}

/// Returns what the report says of a defense and its training.
/// \param held_back number of images
inline std::vector<std::pair<std::string, std::string>> facts_of(const Defended& defended,
                                                                 std::int64_t held_back,
                                                                 const metrics::Proportion& on_fitted,
                                                                 double seconds,
                                                                 const std::optional<ProbeSummary>& probed) {
  std::vector<std::pair<std::string, std::string>> facts;
  if (probed) facts.emplace_back("probe", probed->text);
  if (const AnyPipeline* pipeline = defended.defense.pipeline()) {
    facts.emplace_back("defense", "REFINE, a transform before the victim");
    facts.emplace_back("permutation", numbers_text(pipeline->remap().permutation));
    facts.emplace_back("transform", defended.defense.describe());
  } else {
    facts.emplace_back("defense", "a student that answers in the victim's place");
    facts.emplace_back("student", defended.defense.describe());
  }
  if (defended.extra_images > 0) facts.emplace_back("other pictures", std::to_string(defended.extra_images));
  facts.emplace_back("clean images",
                     fmt::format("{} to fit on, {} held back", defended.fitted_images, held_back));
  facts.emplace_back("device", default_device().str());
  facts.emplace_back("seed", std::to_string(defended.seed));
  facts.emplace_back("recipe", recipe_text(defended.recipe));
  facts.emplace_back("agreement on images fitted on",
                     fmt::format("{:.1f} % of {}", 100 * on_fitted.value(), on_fitted.n));
  facts.emplace_back("training", fmt::format("{:.0f} s", seconds));
  facts.emplace_back("LibTorch", TORCH_VERSION);
  return facts;
}

REFINE_INLINE Defended defend(const LoadedClassifier& victim, at::Tensor images,
                              const DefendOptions& all_options, AnyObserver& observer) {
  DefendOptions options = all_options;
  if (!(options.false_alarm_rate >= 0 && options.false_alarm_rate < 1)) {  // NaN, too
    throw Error("DefendOptions: false_alarm_rate must be in [0, 1), got {}", options.false_alarm_rate);
  }
  if (observer.rank() > 0) {  // rank 0 reports
    options.notify = {};
    options.show = false;
  }
  const distributed::ScopedRanks scoped_ranks(observer);
  if (observer.size() > 1) {
    distributed::check_equal(observer, "images",
                             describe_sample({{"images", images}, {"other pictures", options.extra}}));
  }
  const Task task = victim.task();
  std::optional<ProbeSummary> probed = options.probed;
  std::optional<TakenImages> left_out;
  if (!probed && options.probe) {
    probed = probe_victim(victim, images, options.seed, options.notify, !victim.is_normalization_known);
    if (probed->blank_not_finite) {
      left_out.emplace(images, not_finite(victim, images, options.notify));
      images = left_out->left();
    }
  }
  const SizedDefense sized = size_defense(options.transform, options.student, victim);
  // What can be refused is, before the images are touched and training starts.
  PreparedDefense prepared = prepare_defense(victim, sized, options.seed);
  if (!options.recipe) sized.recipe(options.training, images.size(0), task.image, options.seed);
  if (const std::string sizes = sizes_text(sized, prepared.defense, task.image); !sizes.empty())
    note(options.notify, sizes);
  if (prepared.encoder && has_only_weights_of(*prepared.encoder, *victim.backbone.module)) {
    warn(
        options.notify,
        "all weights of the encoder are the victim's own: if it came with the victim, a trigger passes through it "
        "unnoticed; use a network from its publisher (docs/guide/defend_a_model.md)");
  }
  std::int64_t pictures = 0;
  if (options.extra.defined()) {
    const at::Tensor others = other_pictures(victim, images, options, probed && probed->blank_not_finite);
    pictures = others.size(0);
    images = at::cat({others, images});
  }
  const DividedImages divided = hold_back(images, options.seed, pictures);
  const std::int64_t held_back = 2 * divided.each, fitted = divided.fitted().size(0),
                     fitted_clean = fitted - divided.extra;
  if (const std::int64_t repeats = divided.repeats.taken().size(0); repeats > 0) {
    note(options.notify,
         fmt::format(
             "{} of {} other pictures are left out: they nearly repeat clean images that are held back",
             repeats, pictures));
  }
  if (10 * divided.repeated > held_back) {
    warn(
        options.notify,
        fmt::format(
            "{} of the {} images held back nearly repeat images that are trained on, because many of the images "
            "repeat each other: agreement and alarm look better than on new images; give more different ones",
            divided.repeated, held_back));
  }
  TrainingOptions training = decide_flips(victim, divided.fitted_clean(), options);
  const bool is_sized = is_timed(training) && !options.recipe;
  std::optional<TrainingPlan> plan = options.plan;
  if (!plan && (options.notify || is_sized) && observer.rank() == 0) {
    plan = plan_training(victim, divided.fitted(), fitted,
                         {.training = training,
                          .recipe = options.recipe,
                          .transform = sized.transform,
                          .student = sized.student,
                          .seed = options.seed,
                          .notify = options.notify});
    note(options.notify, "training is expected to take " + plan->describe());
  }
  if (is_sized)
    training.epochs = static_cast<int>(distributed::copy_number(observer, plan ? plan->epochs : 0));
  const Recipe recipe =
      options.recipe ? *options.recipe : sized.recipe(training, fitted, task.image, options.seed);
  warn_of_few_images(fitted_clean + held_back, task.image, sized, options);

  History history;
  prepared.train(divided.fitted(), recipe, observer, history);
  check_weights(prepared.defense);

  Defended result{.defense = std::move(prepared.defense),
                  .recipe = recipe,
                  .alarm = {},
                  .report = {},
                  .victim = victim.name,
                  .fitted_images = fitted_clean,
                  .extra_images = divided.extra,
                  .seed = options.seed,
                  .transform = sized.transform,
                  .student = sized.student,
                  .resize = options.resize,
                  .answer = options.answer};
  result.alarm = calibrate_alarm(result.defense, divided.calibration(), options.false_alarm_rate,
                                 divided.calibration_groups);
  Evidence evidence = options.evidence.value_or(Evidence{.clean = divided.measured()});
  evidence.alarm = result.alarm;
  evidence.show = options.show;
  if (!options.scan) evidence.scanned = 0;
  report::DefenseReport& report = result.report;
  report.title = options.title.empty() ? victim.name : options.title;
  report.dataset = options.dataset;
  report.model = victim.description;
  if (result.defense.student()) {
    report.title += " (student)";
    report.model += ", with a student in its place";
  }
  report.attack = options.attack;
  report.class_names = victim.class_names;
  report.answer = options.answer;
  report.curves = {agreement_curve(history, result.defense)};
  measure_defense(result.defense, evidence, report);
  const metrics::Proportion on_fitted = agreement_on_fitted(result.defense, divided.fitted_clean());
  warn_of_agreement(on_fitted, *report.agreement, recipe.optimization.epochs, options.notify);
  report.facts = facts_of(result, held_back, on_fitted, history.seconds(), probed);
  return result;
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE TrainingPlan plan_defense(const LoadedClassifier& victim, const at::Tensor& images,
                                        const DefendOptions& options) {
  const std::int64_t fitted = images.size(0) - 2 * detail::held_back_each(images.size(0)) +
                              (options.extra.defined() ? options.extra.size(0) : 0);
  return plan_training(victim, images, fitted,
                       {.training = options.training,
                        .recipe = options.recipe,
                        .transform = options.transform,
                        .student = options.student,
                        .seed = options.seed,
                        .notify = options.notify});
}

REFINE_INLINE DefendedFiles Defended::save(const std::filesystem::path& serving) const {
  const DefendedFiles files = DefendedFiles::beside(serving);
  files.check_writable();
  const nlohmann::ordered_json about = {{"victim", victim},
                                        {"model", report.model},
                                        {"clean_images", fitted_images},
                                        {"extra_images", extra_images},
                                        {"defense", defense.kind()},
                                        {student ? "student" : "transform", defense.describe()},
                                        {"recipe", nlohmann::ordered_json(recipe)},
                                        {"seed", seed},
                                        {"class_names", report.class_names},
                                        {"preprocessing", detail::json_of(resize)},
                                        {"alarm", detail::json_of(alarm)},
                                        {"figures", detail::headline(report)},
                                        {"libtorch", TORCH_VERSION}};
  export_defense(defense, files.serving, about, {.alarm_threshold = alarm.threshold, .answer = answer});
  const ImageShape image = defense.task().image;
  std::map<std::string, std::string> metadata = {{"image", fmt::format("{}", image)},
                                                 {"alarm", detail::json_of(alarm).dump()},
                                                 {"answer", std::string(to_text(answer))},
                                                 {"preprocessing", detail::json_of(resize).dump()},
                                                 {"class_names", detail::json_line(report.class_names)}};
  const int see = student ? student->see : transform.see;
  if (see > 0) metadata["sees"] = fmt::format("{}", detail::scaled(image, see));
  if (const AnyPipeline* pipeline = defense.pipeline()) {
    if (see > 0 || transform.draw > 0 || !transform.encoder.file.empty())
      metadata["draws"] = fmt::format("{}", pipeline->transform().output_shape);
    refine::save(*pipeline, files.weights, recipe, std::move(metadata));
  } else {
    metadata["student"] = defense.describe();
    baselines::save(*defense.student(), files.weights, recipe, std::move(metadata));
  }
  report::DefenseReport written = report;
  written.facts.emplace_back(detail::serving_file_fact, serving.filename().string());
  report::write_report(written, files.report);
  return files;
}

}  // namespace refine
