#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/core/random.hpp>
#include <refine/data/resize.hpp>
#include <refine/data/training_set.hpp>
#include <refine/defend/detail/any_observer.hpp>
#include <refine/defend/sizing.hpp>
#include <refine/training/recipe.hpp>

namespace refine {

/// Which victim is trained, and how.
struct VictimTraining {
  std::string network = "ResNet18";  ///< as in `backbones::network_names`
  int width = 0;  ///< of its first layer; 0: as published with CUDA, a fraction of it without
  Normalization normalization = normalizations::imagenet;  ///< of the images
  TrainingOptions training = {};      ///< recipe, by default sized for the images and the machine
  std::uint64_t seed = default_seed;  ///< of weights and training order
  data::ResizeMode resize = data::ResizeMode::crop;  ///< how the images were resized; stored with the victim
};

/// A trained classifier, to be attacked or defended.
struct TrainedVictim {
  backbones::AnyBackbone backbone;                   ///< takes images in [0, 1]; normalisation is inside
  std::string network;                               ///< its name
  int width;                                         ///< of its first layer
  ClassifierRecipe recipe;                           ///< that was used
  std::vector<std::string> classes;                  ///< names, in the order of the logits
  double seconds = 0;                                ///< of training
  data::ResizeMode resize = data::ResizeMode::crop;  ///< how the images were resized

  /// Writes `victim.safetensors`, which `load_classifier` reads without options, and `victim.pt`,
  /// TorchScript.
  /// \throws Error if a file cannot be written
  void save(const std::filesystem::path& folder) const;
};

namespace detail {

TrainedVictim train_victim(const data::TrainingSet& images, const VictimTraining& options,
                           AnyObserver& observer);

}  // namespace detail

/// Trains a network on labelled images, which may be poisoned.
///
///     const TrainedVictim victim = train_victim(attack.poison(train), {.network = "VGG16"}, ProgressBar{});
///
/// \param images labelled images
/// \param options which victim, and how it is trained
/// \param observers of the training, such as `ProgressBar`, `JsonLines` and `Checkpoint`
/// \throws Error if the network is unknown, does not fit the images, or training diverges
/// \throws Stopped if an observer requests it
template <typename... Observers>
TrainedVictim train_victim(const data::TrainingSet& images, const VictimTraining& options = {},
                           Observers&&... observers) {
  detail::AllObservers<Observers...> all(observers...);
  return detail::train_victim(images, options, all);
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/train_victim.ipp>
#endif
