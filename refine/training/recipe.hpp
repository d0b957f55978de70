#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/training/optimization.hpp>

namespace refine {

/// The built-in objectives by name, for recipes. `fit` also takes an objective as a function object
/// (see `objectives::Objective`).
enum class ObjectiveKind {
  bce,           ///< `objectives::Bce`
  nll,           ///< `objectives::Nll`
  distillation,  ///< `objectives::Distillation` at `Recipe::temperature`
};

/// The images that the victim, as the transform's teacher, answers during `fit`.
enum class TeacherInput {
  augmented,  ///< the augmented images, at each step, as in the paper
  original,   ///< each training image once, in the first epoch, without augmentation. An augmented image
              ///< keeps the answer to its original; a mixed image gets the mixture of two answers. Steps are
              ///< cheaper, and the victim never sees an augmented image, which may resemble a triggered one.
};

/// How `fit` trains a transform.
struct Recipe {
  ObjectiveKind objective = ObjectiveKind::bce;    ///< the loss between defended logits and teacher
  TeacherInput teacher = TeacherInput::augmented;  ///< the images that the teacher answers
  double temperature = 1;                          ///< of `ObjectiveKind::distillation`, positive
  /// Weight of an auxiliary classifier on the transform's bottleneck, which learns the teacher's answers
  /// beside the objective and is dropped after training; 0 or more, 0: none. It brings a gradient that
  /// has not passed through the victim: training starts where the victim's answers are sharp.
  double head_weight = 0;
  double supcon_weight = 0.1;            ///< weight of `objectives::SupCon`, 0 or more; 0: off
  double supcon_temperature = 0.07;      ///< of `objectives::SupCon`, positive; also its `base_temperature`:
                                         ///< there is no factor of temperature / 0.07
  Optimization optimization = {};        ///< optimizer, schedule, batches
  data::Augmentation augmentation = {};  ///< random changes of each batch
  std::uint64_t seed = default_seed;     ///< of the order of images and the augmentation

  /// True if all fields are equal.
  friend bool operator==(const Recipe&, const Recipe&) = default;

  /// Checks the range of each field.
  /// \throws Error naming the first field that is out of range
  void validate() const {
    optimization.validate();
    augmentation.validate();
    constexpr double max = std::numeric_limits<float>::max();  // losses are computed in float32
    if (!(temperature > 0 && temperature <= max))
      throw Error("recipe.temperature must be positive and at most 3.4e38, got {}", temperature);
    if (!(head_weight >= 0 && head_weight <= max))
      throw Error("recipe.head_weight must be in [0, 3.4e38], got {}", head_weight);
    if (!(supcon_temperature > 0 && supcon_temperature <= max))
      throw Error("recipe.supcon_temperature must be positive and at most 3.4e38, got {}", supcon_temperature);
    if (!(supcon_weight >= 0 && supcon_weight <= max))
      throw Error("recipe.supcon_weight must be in [0, 3.4e38], got {}", supcon_weight);
  }
};

/// How `train_classifier` trains a classifier.
struct ClassifierRecipe {
  double label_smoothing = 0;            ///< of the cross-entropy, in [0, 1)
  Optimization optimization = {};        ///< optimizer, schedule, batches
  data::Augmentation augmentation = {};  ///< random changes of each batch; `mix` must be 0
  std::uint64_t seed = default_seed;     ///< of the order of images, the augmentation and dropout

  /// True if all fields are equal.
  friend bool operator==(const ClassifierRecipe&, const ClassifierRecipe&) = default;

  /// Checks the range of each field.
  /// \throws Error naming the first field that is out of range
  void validate() const {
    optimization.validate();
    augmentation.validate();
    if (augmentation.mix > 0) {
      throw Error(
          "recipe.augmentation.mix must be 0 to train a classifier, got {}; mixed images have no label",
          augmentation.mix);
    }
    if (!(label_smoothing >= 0 && label_smoothing < 1))
      throw Error("recipe.label_smoothing must be in [0, 1), got {}", label_smoothing);
  }
};

/// \namespace refine::recipes
/// Ready-made recipes. `docs/lab/recipes.md` has their measurements. Change a copy where you need other
/// values:
///
///     Recipe recipe = recipes::fast;
///     recipe.optimization.epochs = 24;
///     fit(defense, images, recipe);
namespace recipes {

/// The paper's training of the transform (Chen et al., 2025, `chen2025refine`): BCE and SupCon,
/// SGD, 150 epochs. The paper's figures also need the paper's pipeline: a `UNet` with
/// `.activation = OutputActivation::clamp`, a `Normalized` victim and `PixelDomain::reference`.
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

/// The default. Reaches the figures of `paper` in a tenth of the time, on some 20,000 images:
/// distillation from answers that the victim gives once per image, Muon, small batches, mixed
/// images, and bfloat16 where the device has it.
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

/// `fast` with batches that fill a GPU, for tens of thousands of small images.
inline constexpr Recipe gpu = [] {
  Recipe recipe = fast;
  recipe.optimization.lr = 0.1;
  recipe.optimization.adam_lr = 0.01;
  recipe.optimization.batch_size = 256;
  recipe.optimization.epochs = 13;
  return recipe;
}();

/// `fast` in two epochs, for 50,000 images and a few minutes of two CPU cores.
inline constexpr Recipe two_cores = [] {
  Recipe recipe = fast;
  recipe.optimization.epochs = 2;
  recipe.augmentation.mix = 0;  // images that are seen only twice cannot be overfitted
  return recipe;
}();

/// For a transform with an encoder (`transforms::Encoded`), on a few hundred to a few thousand images:
/// `fast` with softened answers and a head on the bottleneck. The images are only mixed, by their
/// features.
inline constexpr Recipe encoded = [] {
  Recipe recipe = fast;
  recipe.temperature = 4;
  recipe.head_weight = 1;
  recipe.supcon_weight = 0;
  recipe.augmentation = {.mix = 0.5};
  return recipe;
}();

/// The paper's training of a victim: SGD, 150 epochs. `paper_classifier_of` has the rates of each
/// network.
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

/// The default. A victim of about the same accuracy in a tenth of the epochs, by Muon.
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

/// `fast_classifier` in bfloat16 where the device has it, for a GPU.
inline constexpr ClassifierRecipe gpu_classifier = [] {
  ClassifierRecipe recipe = fast_classifier;
  recipe.optimization.precision = Precision::automatic;
  return recipe;
}();

/// `fast_classifier` in two epochs, for 50,000 images and two minutes of two CPU cores.
inline constexpr ClassifierRecipe two_cores_classifier = [] {
  ClassifierRecipe recipe = fast_classifier;
  recipe.optimization.epochs = 2;
  return recipe;
}();

/// Returns the paper's recipe for a victim: SGD for 150 epochs at 0.1, at 0.01 for the VGGs and at
/// 0.001 for ViT.
/// \param network a name in any spelling that `backbones::network_by_name` takes
/// \throws Error if the name is unknown
ClassifierRecipe paper_classifier_of(std::string_view network);

/// Returns a recipe with a tenth of the paper's epochs: `fast_classifier`, but Adam for ViT, which
/// has no kernels that Muon could train.
/// \param network a name in any spelling that `backbones::network_by_name` takes
/// \throws Error if the name is unknown
ClassifierRecipe fast_classifier_of(std::string_view network);

}  // namespace recipes

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/recipe.ipp>
#endif
