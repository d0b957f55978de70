#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <refine/backbones/any_backbone.hpp>
#include <refine/core/task.hpp>
#include <refine/defend/detail/any_observer.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/sizing.hpp>
#include <refine/defend/trained_defense.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>

namespace refine::detail {

/// A defense with random weights, and how it is trained.
struct PreparedDefense {
  TrainedDefense defense;
  /// Trains the networks of `defense` on images. \throws Error as `fit` and `distill`
  std::function<void(const at::Tensor& images, const Recipe& recipe, AnyObserver& observer, History& history)>
      train;
  std::function<at::Tensor(const at::Tensor&)> encode = {};  ///< images → features; empty: no encoder
  std::shared_ptr<torch::nn::Module> encoder = {};           ///< holds what `encode` computes with
};

/// True if each weight of a network, and there are some, is also one of another network: tensors with the same
/// elements in the same order. Tensors of few elements, which may be equal by chance, do not count.
bool has_only_weights_of(const torch::nn::Module& network, const torch::nn::Module& other);

/// Which defense is trained, with the sizes that were chosen.
struct SizedDefense {
  TransformOptions transform = {};  ///< as `size_transform` returns it
  std::optional<StudentOptions> student =
      std::nullopt;  ///< as `size_student` returns it; nothing: a transform

  /// Returns the options of the encoder; without one, its file is empty.
  const EncoderOptions& encoder() const { return student ? student->encoder : transform.encoder; }

  /// Returns the recipe. \throws Error as `defense_recipe` and `student_recipe`
  Recipe recipe(const TrainingOptions& training, std::int64_t images, const ImageShape& shape,
                std::uint64_t seed) const {
    return student ? student_recipe(training, images, shape, seed, *student)
                   : defense_recipe(training, images, shape, seed, transform);
  }
};

/// Chooses the sizes that options leave open.
/// \throws Error if options of a transform are specified for a student
SizedDefense size_defense(const TransformOptions& transform, const std::optional<StudentOptions>& student,
                          const LoadedClassifier& victim);

/// Makes a defense that is to be trained.
/// \throws Error as `make_transform`, or if the parts do not fit the victim
PreparedDefense prepare_defense(const LoadedClassifier& victim, const SizedDefense& sized,
                                std::uint64_t seed);

/// The network of a student without an encoder, as in `backbones::network_names`.
inline constexpr const char* student_network = "ResNet18";

/// Returns a network as a student of a victim: images are resized to what it sees.
backbones::AnyBackbone resized_student(const Task& victim, const backbones::AnyBackbone& network);

/// Returns a student in a few words: "ResNet18 of width 16, sees 3x64x64".
/// \param victim its task
/// \param width of the network
/// \param sees the shape of the images that it sees
std::string describe_student(const Task& victim, int width, const ImageShape& sees);

/// Returns the same for a student with an encoder.
std::string describe_encoded_student(int width, const ImageShape& sees);

}  // namespace refine::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/prepared_defense.ipp>
#endif
