#pragma once

#include <refine/defend/sizing.hpp>

#include <algorithm>
#include <cstdint>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/defend/detail/transform_kinds.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/programs/encoder.hpp>
#include <refine/transforms/encoded.hpp>
#include <refine/transforms/resized.hpp>

namespace refine::detail {

/// Numbers of images to see in all epochs together.
struct ImageBudget {
  std::int64_t by_gpu;
  std::int64_t by_cpu;  ///< of 32×32 pixels: a few minutes
};

/// True if `recipes::gpu` suits the images. Its large batches were measured with many small images
/// only, and large images would not fit into memory.
inline bool suits_gpu_recipe(std::int64_t images, const ImageShape& shape) {
  return default_device().is_cuda() && images >= 20'000 && std::max(shape.height, shape.width) <= 64;
}

/// Returns the number of epochs, unless it is specified: on a GPU what was measured to suffice, on
/// a CPU fewer for large images.
inline int size_epochs(std::optional<int> specified, std::int64_t images, const ImageShape& shape,
                       ImageBudget budget) {
  if (specified) return *specified;
  std::int64_t seen = budget.by_gpu;
  if (!default_device().is_cuda()) {
    const double ratio = 32.0 * 32.0 / (static_cast<double>(shape.height) * shape.width);
    seen = std::clamp(static_cast<std::int64_t>(static_cast<double>(budget.by_cpu) * ratio),
                      std::int64_t{10'000}, budget.by_cpu);
  }
  const std::int64_t epochs = (seen + images - 1) / std::max<std::int64_t>(images, 1);
  return static_cast<int>(std::clamp<std::int64_t>(epochs, 2, 200));
}

/// Returns the augmentation for images of this shape. Images that are seen often are mixed, where
/// no labels are needed.
inline data::Augmentation size_augmentation(const ImageShape& shape, int epochs, bool has_labels) {
  data::Augmentation augmentation{.flip = true};
  if (std::min(shape.height, shape.width) > 64) {
    augmentation.resized_crop_min_scale = 0.8;
  } else if (has_labels && epochs > 2) {  // a defense of small images is better without (docs/lab/recipes.md)
    augmentation.crop_padding = 2;
  }
  if (!has_labels && epochs >= 10) augmentation.mix = 0.5;
  return augmentation;
}

/// Returns the number of epochs for a transform with an encoder, whose epochs cost no encoding: some 400
/// steps of 64 images, and 6 epochs at least.
inline int encoded_epochs(std::int64_t images) {
  constexpr std::int64_t seen = 24'000;
  return static_cast<int>(
      std::clamp<std::int64_t>((seen + images - 1) / std::max<std::int64_t>(images, 1), 6, 100));
}

REFINE_INLINE transforms::ProgramEncoder load_encoder(const EncoderOptions& options, const ImageShape& image,
                                                      const std::optional<ImageShape>& sees) {
  transforms::ProgramEncoderOptions encoder{.normalization = options.normalization};
  (sees ? encoder.image : encoder.likely_image) = sees.value_or(image);
  return transforms::ProgramEncoder(options.file, encoder);
}

inline transforms::AnyTransform make_encoded(const TransformOptions& options, const ImageShape& image,
                                             std::uint64_t seed) {
  if (options.levels > 0 || options.name != "UNet") {
    throw Error("--{}: does not apply with --encoder, whose decoder has one form; leave it out",
                options.levels > 0 ? "levels" : "transform");
  }
  if (options.width > 0 && options.width % 4 != 0)
    throw Error("--width must be a multiple of 4 with --encoder, got {}", options.width);
  const transforms::ProgramEncoder encoder =
      load_encoder(options.encoder, image, scaled_if(image, options.see));
  return transforms::Encoded<transforms::ProgramEncoder>{
      .image = image,
      .encoder = encoder,
      .decoder = {.features = encoder.features,
                  .image = scaled(image, options.draw),
                  .width = options.width > 0 ? options.width : 96,
                  .seed = seed}};
}

inline void override_with(const TrainingOptions& options, Optimization& optimization) {
  if (options.optimizer) optimization.optimizer = *options.optimizer;
  if (options.epochs) optimization.epochs = *options.epochs;
  if (options.batch_size) optimization.batch_size = *options.batch_size;
  if (options.lr) optimization.lr = *options.lr;
  if (options.precision) optimization.precision = *options.precision;
  if (options.sync_batch_norm) optimization.sync_batch_norm = *options.sync_batch_norm;
  if (options.decay) {
    if (optimization.schedule != Schedule::steps) {
      throw Error(
          "--decay: the recipe has no milestones, at which the rate falls; leave it out or use --recipe paper");
    }
    optimization.decay = *options.decay;
  }
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE Recipe defense_recipe(const TrainingOptions& options, std::int64_t images,
                                    const ImageShape& shape, std::uint64_t seed,
                                    const TransformOptions& transform) {
  const auto override_all = [&](Recipe& recipe) {
    detail::override_with(options, recipe.optimization);
    if (options.supcon_weight) recipe.supcon_weight = *options.supcon_weight;
    if (options.temperature) {
      if (recipe.objective != ObjectiveKind::distillation) {
        throw Error(
            "--temperature: the recipe's objective is not distillation, whose logits it divides; leave it out or use "
            "another --recipe");
      }
      recipe.temperature = *options.temperature;
    }
    if (options.head_weight) recipe.head_weight = *options.head_weight;
    if (options.flip) recipe.augmentation.flip = *options.flip;
    recipe.seed = seed;
    recipe.validate();
  };
  if (!transform.encoder.file.empty()) {
    if (options.recipe != RecipeChoice::automatic) {
      throw Error(
          "--recipe: with --encoder, images are encoded once and cannot be augmented; leave --recipe out");
    }
    if (options.flip.value_or(false))
      throw Error("--flip: with --encoder, images are encoded once and cannot be mirrored; leave --flip out");
    Recipe recipe = recipes::encoded;
    recipe.optimization.epochs = options.epochs.value_or(detail::encoded_epochs(images));
    override_all(recipe);
    return recipe;
  }
  const bool is_automatic = options.recipe == RecipeChoice::automatic;
  const bool is_resized = transform.see > 0 || transform.draw > 0;
  const bool by_gpu = is_automatic && detail::suits_gpu_recipe(images, shape);
  Recipe recipe = by_gpu                                  ? recipes::gpu
                  : options.recipe == RecipeChoice::paper ? recipes::paper
                                                          : recipes::fast;
  if (is_automatic) {
    recipe.optimization.epochs =
        detail::size_epochs(options.epochs, images, is_resized ? detail::scaled(shape, transform.see) : shape,
                            {.by_gpu = by_gpu ? 650'000 : 600'000, .by_cpu = 250'000});
    recipe.augmentation = detail::size_augmentation(shape, recipe.optimization.epochs, /*has_labels=*/false);
    // Few images and their mixed answers are memorized; the victim's answers to the mixtures are
    // new at each step. The victim is not asked about crops: to some victims they look like their
    // trigger (docs/lab/recipes.md).
    const bool crops = recipe.augmentation.resized_crop_min_scale < 1 || recipe.augmentation.crop_padding > 0;
    if (recipe.optimization.epochs > 50 && !crops) recipe.teacher = TeacherInput::augmented;
  }
  override_all(recipe);
  return recipe;
}

REFINE_INLINE Recipe student_recipe(const TrainingOptions& options, std::int64_t images,
                                    const ImageShape& shape, std::uint64_t seed,
                                    const StudentOptions& student) {
  for (const auto& [weight, name] :
       {std::pair{options.supcon_weight, "--sup"}, {options.head_weight, "--head"}}) {
    if (weight.value_or(0) > 0)
      throw Error("{}: applies to a transform, and a student has none; leave {} out", name, name);
  }
  TrainingOptions training = options;
  training.supcon_weight = training.head_weight = 0;
  return defense_recipe(training, images, shape, seed, {.see = student.see, .encoder = student.encoder});
}

REFINE_INLINE ClassifierRecipe victim_recipe(const TrainingOptions& options, std::string_view network,
                                             std::int64_t images, const ImageShape& shape,
                                             std::uint64_t seed) {
  ClassifierRecipe recipe = options.recipe == RecipeChoice::paper ? recipes::paper_classifier_of(network)
                                                                  : recipes::fast_classifier_of(network);
  if (options.recipe == RecipeChoice::automatic) {
    recipe.optimization.epochs =
        detail::size_epochs(options.epochs, images, shape, {.by_gpu = 750'000, .by_cpu = 100'000});
    recipe.augmentation = detail::size_augmentation(shape, recipe.optimization.epochs, /*has_labels=*/true);
  }
  detail::override_with(options, recipe.optimization);
  if (options.flip) recipe.augmentation.flip = *options.flip;
  recipe.seed = seed;
  recipe.validate();
  return recipe;
}

REFINE_INLINE TransformOptions size_transform(const TransformOptions& options,
                                              const LoadedClassifier& victim) {
  const ImageShape image = victim.task().image;
  const int side = std::max(image.height, image.width);
  const bool is_large = side > max_full_size;
  const bool has_encoder = !options.encoder.file.empty();
  if (!has_encoder && !is_large && options.see == 0 && options.draw == 0) return options;
  TransformOptions sized = options;
  if (sized.see == 0 && !has_encoder) sized.see = is_large ? 64 : side;
  if (sized.draw == 0) {
    constexpr int usual = 96;
    const auto device = nn::device_of(*victim.backbone.module).value_or(at::kCPU);
    const bool takes_usual =
        is_large && detail::takes_images(victim.backbone, detail::scaled(image, usual), device);
    sized.draw = takes_usual ? usual : side;
  }
  return sized;
}

REFINE_INLINE StudentOptions size_student(const StudentOptions& options, const ImageShape& image) {
  StudentOptions sized = options;
  const bool is_large = std::max(image.height, image.width) > max_full_size;
  if (sized.see == 0 && is_large && sized.encoder.file.empty()) sized.see = 64;
  return sized;
}

REFINE_INLINE transforms::AnyTransform make_transform(const TransformOptions& options,
                                                      const ImageShape& image, std::uint64_t seed) {
  if (!options.encoder.file.empty()) return detail::make_encoded(options, image, seed);
  if (options.see > 0 || options.draw > 0) {
    const ImageShape sees = detail::scaled(image, options.see), draws = detail::scaled(image, options.draw);
    TransformOptions inner = options;
    inner.see = inner.draw = 0;
    return transforms::Resized<transforms::AnyTransform>{
        .image = image, .inner = make_transform(inner, sees, seed), .output_shape = draws};
  }
  const auto kind = std::ranges::find(detail::transform_kinds, options.name,
                                      [](const detail::TransformKind& k) { return std::string(k.name); });
  if (kind == detail::transform_kinds.end()) {
    throw Error("--transform must be UNet or EncoderDecoder, got '{}'", options.name);
  }
  const int divisor =
      (default_device().is_cuda() ? 1 : 4) * (std::max(image.height, image.width) > 64 ? 2 : 1);
  return kind->make(image, options.levels > 0 ? options.levels : kind->levels,
                    options.width > 0 ? options.width : kind->width / divisor,
                    transforms::OutputActivation::sigmoid, seed);
}

}  // namespace refine
