#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

#include <refine/backbones/zoo.hpp>
#include <refine/core/random.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/training/detail/optimizers.hpp>

namespace refine {

/// What the transform is trained towards; see `objectives`.
enum class ObjectiveKind { bce, nll, distillation };

/// Which images the victim is asked about, as the transform's teacher.
enum class TeacherInput {
  augmented,  ///< every changed image, at each step, as published
  original,   ///< each training image once, in the first epoch, as it is: a changed one keeps its answer, a
              ///< mixed one mixes the two. A step is cheaper, and no changed image is asked about, which may
              ///< look like a triggered one
};

/// How a transform is trained: what `fit` takes.
struct Recipe {
  ObjectiveKind objective = ObjectiveKind::bce;
  TeacherInput teacher = TeacherInput::augmented;
  double temperature = 1;      ///< of distillation
  double supcon_weight = 0.1;  ///< 0 leaves the term out
  double supcon_temperature = 0.07;
  Optimization optimization = {};
  data::Augmentation augmentation = {};
  std::uint64_t seed = default_seed;  ///< of the order of images and the augmentation

  friend bool operator==(const Recipe&, const Recipe&) = default;

  /// \throws Error naming the first field that is out of range
  void validate() const {
    optimization.validate();
    augmentation.validate();
    if (!(temperature > 0 && std::isfinite(temperature)))
      throw Error("the recipe's temperature is {}; it is above 0 and finite", temperature);
    if (!(supcon_temperature > 0 && std::isfinite(supcon_temperature))) {
      throw Error("the recipe's supcon_temperature is {}; it is above 0 and finite", supcon_temperature);
    }
    if (!(supcon_weight >= 0 && std::isfinite(supcon_weight)))
      throw Error("the recipe's supcon_weight is {}; it is 0 or more and finite", supcon_weight);
  }
};

/// How a classifier is trained: what `train_classifier` takes.
struct ClassifierRecipe {
  double label_smoothing = 0;  ///< in [0, 1)
  Optimization optimization = {};
  data::Augmentation augmentation = {};
  std::uint64_t seed = default_seed;

  friend bool operator==(const ClassifierRecipe&, const ClassifierRecipe&) = default;

  void validate() const {
    optimization.validate();
    augmentation.validate();
    if (augmentation.mix > 0) {
      throw Error("the recipe's mix is {}; mixed images have no label, a classifier is trained without",
                  augmentation.mix);
    }
    if (!(label_smoothing >= 0 && label_smoothing < 1)) {
      throw Error("the recipe's label_smoothing is {}; it is 0 to below 1", label_smoothing);
    }
  }
};

/// The recipes at hand. `docs/recipes.md` has how they were measured.
namespace recipes {

/// As published: BCE and SupCon, SGD, 150 epochs. For the published figures the pipeline has to be the
/// published one too: `UNet{.squash = OutputActivation::clamp}`, a `Normalized` victim, `PixelDomain::reference`.
inline constexpr Recipe paper = {
    .objective = ObjectiveKind::bce,
    .supcon_weight = 0.1,
    .optimization = {.optimizer = OptimizerKind::sgd,
                     .lr = 0.01,
                     .momentum = 0.9,
                     .weight_decay = 5e-4,
                     .schedule = Schedule::steps,
                     .milestones = {100, 130},
                     .decay = 0.8,
                     .batch_size = 256,
                     .epochs = 150},
    .augmentation = {.flip = true, .resized_crop_min_scale = 0.8, .grayscale = 0.2},
};

/// The same figures sooner: distillation from the victim, which is asked once, Muon, small batches, mixed
/// images, bfloat16 where the device has it.
inline constexpr Recipe fast = {
    .objective = ObjectiveKind::distillation,
    .teacher = TeacherInput::original,
    .supcon_weight = 0.1,
    .optimization = {.optimizer = OptimizerKind::muon,
                     .lr = 0.05,
                     .momentum = 0.9,
                     .weight_decay = 0,
                     .adam_lr = 0.005,
                     .schedule = Schedule::one_cycle,
                     .batch_size = 64,
                     .epochs = 12,
                     .precision = Precision::automatic},
    .augmentation = {.flip = true, .mix = 0.5},
};

/// `fast`, for tens of thousands of small images on a GPU: batches that fill it.
inline constexpr Recipe gpu = [] {
  Recipe recipe = fast;
  recipe.optimization.lr = 0.1;
  recipe.optimization.adam_lr = 0.01;
  recipe.optimization.batch_size = 256;
  recipe.optimization.epochs = 13;
  return recipe;
}();

/// `fast`, for 50,000 images and a few minutes of two processor cores.
inline constexpr Recipe two_cores = [] {
  Recipe recipe = fast;
  recipe.optimization.epochs = 2;
  recipe.augmentation.mix = 0;  // an image that is seen twice can't be learnt by heart
  return recipe;
}();

/// The victim as published: SGD, 150 epochs.
inline constexpr ClassifierRecipe paper_classifier = {
    .optimization = {.optimizer = OptimizerKind::sgd,
                     .lr = 0.1,
                     .momentum = 0.9,
                     .weight_decay = 5e-4,
                     .schedule = Schedule::steps,
                     .milestones = {100, 130},
                     .decay = 0.1,
                     .batch_size = 128,
                     .epochs = 150},
    .augmentation = {.flip = true},
};

/// A victim in a tenth of the epochs.
inline constexpr ClassifierRecipe fast_classifier = {
    .optimization = {.optimizer = OptimizerKind::muon,
                     .lr = 0.05,
                     .momentum = 0.9,
                     .weight_decay = 0,
                     .adam_lr = 0.005,
                     .schedule = Schedule::one_cycle,
                     .batch_size = 128,
                     .epochs = 15},
    .augmentation = {.flip = true, .crop_padding = 2},
};

/// `fast_classifier` in bfloat16, for a GPU.
inline constexpr ClassifierRecipe gpu_classifier = [] {
  ClassifierRecipe recipe = fast_classifier;
  recipe.optimization.precision = Precision::automatic;
  return recipe;
}();

/// `fast_classifier`, for 50,000 images and two minutes of two processor cores.
inline constexpr ClassifierRecipe two_cores_classifier = [] {
  ClassifierRecipe recipe = fast_classifier;
  recipe.optimization.epochs = 2;
  return recipe;
}();

}  // namespace recipes

}  // namespace refine

namespace refine::recipes {

/// A published victim's own recipe, by the network's name in any spelling that `backbones::network_by_name`
/// takes: SGD at 0.1, but 0.01 for the VGGs and 0.001 for ViT; 150 epochs. \throws Error for an unknown name
inline ClassifierRecipe paper_classifier_of(std::string_view network) {
  const std::string_view name = backbones::canonical_network_name(network);
  ClassifierRecipe recipe = paper_classifier;
  if (name == "VGG16" || name == "VGG19") recipe.optimization.lr = 0.01;
  if (name == "ViT") recipe.optimization.lr = 0.001;
  return recipe;
}

/// The same in a tenth of the epochs. A ViT has no kernels that Muon could train: Adam does. \throws Error
/// for an unknown name
inline ClassifierRecipe fast_classifier_of(std::string_view network) {
  ClassifierRecipe recipe = fast_classifier;
  if (backbones::canonical_network_name(network) == "ViT") {
    recipe.optimization.optimizer = OptimizerKind::adam;
    recipe.optimization.lr = 0.001;
  }
  return recipe;
}

}  // namespace refine::recipes
