#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <refine/backbones/normalized.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/training/recipe.hpp>
#include <refine/transforms/any_transform.hpp>

namespace refine::transforms {

class ProgramEncoder;

}  // namespace refine::transforms

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
  std::optional<bool> sync_batch_norm = std::nullopt;     ///< `Optimization::sync_batch_norm`
  std::optional<double> decay = std::nullopt;  ///< factor of the learning rate at the recipe's milestones
  std::optional<double> supcon_weight = std::nullopt;  ///< of the SupCon loss; of a defense only
  std::optional<double> temperature = std::nullopt;    ///< of distillation; of a defense only
  std::optional<double> head_weight = std::nullopt;    ///< `Recipe::head_weight`; of a defense only
  /// Duration of a defense's training, from which `defend` sizes the epochs; nothing, or with `epochs`: not
  /// used. `plan_training` reports the epochs, which reproduce the run.
  std::optional<double> minutes = std::nullopt;
  /// Longest duration of a defense's training: where the recipe's epochs would take longer, there are fewer.
  /// Nothing, or with `epochs` or `minutes`: no limit.
  std::optional<double> max_minutes = std::nullopt;
  std::optional<bool> flip =
      std::nullopt;  ///< mirror images at random; nothing: as the recipe has it, see `defend`
};

/// Returns true if the epochs of a defense's training follow from its speed (`plan_training`).
inline bool is_timed(const TrainingOptions& options) {
  return !options.epochs && (options.minutes || options.max_minutes);
}

/// Returns the recipe for a victim.
/// \param network its name, as in `backbones::network_names`
/// \param images number of images to train on
/// \param shape of the images
/// \param options what replaces the recipe's numbers
/// \param seed of the order of images
/// \throws Error as `defense_recipe`, or if the network is unknown
ClassifierRecipe victim_recipe(const TrainingOptions& options, std::string_view network, std::int64_t images,
                               const ImageShape& shape, std::uint64_t seed = default_seed);

/// A feature extractor that nobody tampered with, such as the public weights that the victim was
/// fine-tuned from.
struct EncoderOptions {
  std::filesystem::path file = {};  ///< TorchScript or .pt2, see `transforms::ProgramEncoder`; empty: none
  std::optional<Normalization> normalization = std::nullopt;  ///< that it expects; nothing: images in [0, 1]

  /// True if both members are equal.
  friend bool operator==(const EncoderOptions&, const EncoderOptions&) = default;
};

/// Which transform is trained.
struct TransformOptions {
  std::string name = "UNet";  ///< "UNet" or "EncoderDecoder"; without effect with an encoder
  int levels = 0;             ///< how often it halves its images; 0: UNet 4, EncoderDecoder 3
  /// Channels of its first convolutions. 0: UNet 64 and EncoderDecoder 112 with CUDA, a quarter of
  /// it without, and half of that for images of more than 64 pixels. With an encoder, of the decoder's
  /// first map, a multiple of 4; 0: 96.
  int width = 0;
  /// Longer side of the images that it sees (`transforms::Resized`, `transforms::Encoded`); 0: that of the
  /// images, or as `size_transform` chooses.
  int see = 0;
  int draw = 0;  ///< longer side of the images that it draws, at which the victim is asked; 0: likewise
  EncoderOptions encoder = {};  ///< makes the transform an `Encoded`

  /// True if all members are equal.
  friend bool operator==(const TransformOptions&, const TransformOptions&) = default;
};

/// Which student is distilled (`baselines::distill`): a ResNet-18 or, with an encoder, a head of two
/// layers on its features.
struct StudentOptions {
  /// Channels of its first convolutions; 0: 64 with CUDA, 16 without. With an encoder, numbers between
  /// the two layers; 0: 256.
  int width = 0;
  /// Longer side of the images that it sees; 0: that of the images, or as `size_student` chooses.
  int see = 0;
  EncoderOptions encoder = {};  ///< makes the student an `EncodedClassifier`
};

/// Images with a longer side than this are seen and drawn smaller, unless specified otherwise.
inline constexpr int max_full_size = 96;

namespace detail {

/// Returns a shape scaled to a longer side of `side` pixels.
/// \param side 0: unchanged
inline ImageShape scaled(const ImageShape& image, int side) {
  const int longer = std::max(image.height, image.width);
  if (side == 0 || longer < 1) return image;
  const auto scale = [&](int extent) {
    return std::max(1, static_cast<int>((std::int64_t{extent} * side + longer / 2) / longer));
  };
  return {image.channels, scale(image.height), scale(image.width)};
}

/// Returns a shape scaled to a longer side of `side` pixels; nothing if `side` is 0.
inline std::optional<ImageShape> scaled_if(const ImageShape& image, int side) {
  return side > 0 ? std::optional(scaled(image, side)) : std::nullopt;
}

}  // namespace detail

/// Chooses the sizes that a transform's options leave open. Images of more than `max_full_size` pixels
/// are seen at 64, or as the encoder sees them, and drawn at 96 if the victim takes images of that
/// size, else at the victim's own.
/// \param options `see` and `draw` are used unchanged where they are set
/// \param victim is asked with two blank images
TransformOptions size_transform(const TransformOptions& options, const LoadedClassifier& victim);

/// Chooses the size that a student's options leave open: images of more than `max_full_size` pixels are
/// seen at 64, or as the encoder sees them.
/// \param options `see` is used unchanged where it is set
/// \param image shape of the victim's images
StudentOptions size_student(const StudentOptions& options, const ImageShape& image);

/// Builds a transform with random weights for images of one shape.
/// \throws Error if no transform has that name, an option does not apply to it, or the encoder cannot be
///   used
transforms::AnyTransform make_transform(const TransformOptions& options, const ImageShape& image,
                                        std::uint64_t seed = default_seed);

/// Returns the recipe for the transform of a defense.
/// \param options what replaces the recipe's numbers
/// \param images number of images to train on
/// \param shape of the images
/// \param seed of the order of images
/// \param transform what is trained, as `size_transform` returns it
/// \throws Error if a number is out of range, `decay` is set and the recipe has no milestones, or the
///   recipe does not suit the transform
Recipe defense_recipe(const TrainingOptions& options, std::int64_t images, const ImageShape& shape,
                      std::uint64_t seed = default_seed, const TransformOptions& transform = {});

/// Returns the recipe for a student: that of a transform that sees the same, without the losses that
/// need a transform.
/// \param student what is trained, as `size_student` returns it
/// \throws Error as `defense_recipe`, or if a weight of these losses is set
Recipe student_recipe(const TrainingOptions& options, std::int64_t images, const ImageShape& shape,
                      std::uint64_t seed = default_seed, const StudentOptions& student = {});

namespace detail {

/// Loads an encoder.
/// \param image shape of the victim's images
/// \param sees shape of the images that it sees; nothing: the file's, else `image`
/// \throws Error as `transforms::ProgramEncoder`
transforms::ProgramEncoder load_encoder(const EncoderOptions& options, const ImageShape& image,
                                        const std::optional<ImageShape>& sees);

}  // namespace detail

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/sizing.ipp>
#endif
