#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/training/recipe.hpp>
#include <refine/transforms/any_transform.hpp>

namespace refine {

/// Where a recipe starts from.
enum class RecipeChoice {
  automatic,  ///< `recipes::fast` or `recipes::gpu`, with epochs and augmentation for these images and this machine
  fast,   ///< `recipes::fast`
  paper,  ///< `recipes::paper`, the settings of the paper
};

/// How a network is trained: a recipe, and numbers that replace its own.
struct TrainingOptions {
  RecipeChoice recipe = RecipeChoice::automatic;          ///< which recipe the numbers belong to
  std::optional<int> epochs = std::nullopt;               ///< how often each image is seen
  std::optional<int> batch_size = std::nullopt;           ///< images a step, 2 or more
  std::optional<double> lr = std::nullopt;                ///< learning rate, positive
  std::optional<OptimizerKind> optimizer = std::nullopt;  ///< SGD, Adam or Muon
  std::optional<Precision> precision = std::nullopt;      ///< of convolutions and matrix products
  std::optional<double> decay = std::nullopt;  ///< factor of the learning rate at the recipe's milestones
  std::optional<double> supcon_weight = std::nullopt;  ///< of the SupCon loss; of a defense only
  /// Duration of a defense's training, from which `defend` sizes the epochs; nothing, or with `epochs`: not
  /// used. `plan_training` reports the epochs, which reproduce the run.
  std::optional<double> minutes = std::nullopt;
  std::optional<bool> flip =
      std::nullopt;  ///< mirror images at random; nothing: as the recipe has it, see `defend`
};

/// Returns the recipe for the transform of a defense.
/// \param images number of images to train on
/// \param shape of the images
/// \param options what replaces the recipe's numbers
/// \param seed of the order of images
/// \throws Error if a number is out of range, or `decay` is set and the recipe has no milestones
Recipe defense_recipe(const TrainingOptions& options, std::int64_t images, const ImageShape& shape,
                      std::uint64_t seed = default_seed);

/// Returns the recipe for a victim.
/// \param network its name, as in `backbones::network_names`
/// \param images number of images to train on
/// \param shape of the images
/// \param options what replaces the recipe's numbers
/// \param seed of the order of images
/// \throws Error as `defense_recipe`, or if the network is unknown
ClassifierRecipe victim_recipe(const TrainingOptions& options, std::string_view network, std::int64_t images,
                               const ImageShape& shape, std::uint64_t seed = default_seed);

/// Which transform is trained.
struct TransformOptions {
  std::string name = "UNet";  ///< "UNet" or "EncoderDecoder"
  int levels = 0;             ///< how often it halves its images; 0: UNet 4, EncoderDecoder 3
  /// Channels of its first convolutions. 0: UNet 64 and EncoderDecoder 112 with CUDA, a quarter of
  /// it without, and half of that for images of more than 64 pixels.
  int width = 0;
};

/// Builds a transform with random weights for images of one shape.
/// \throws Error if no transform has that name
transforms::AnyTransform make_transform(const TransformOptions& options, const ImageShape& image,
                                        std::uint64_t seed = default_seed);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/sizing.ipp>
#endif
