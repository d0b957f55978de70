#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <concepts>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <refine/core/check.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/module.hpp>

namespace refine::backbones {

/// A classifier. For `b` of type `B`:
///
///  1. `b.task` is its `Task`: a constant, or a member if an extent is dynamic;
///  2. `b.forward(images)` takes float N×C×H×W in [0, 1] and returns logits N×classes;
///  3. `b.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds its state. `freeze`
///     and `deep_copy` require that its type implements `clone` (`nn::CanClone`), as a
///     `torch::nn::Cloneable` does;
///  4. `B` is copyable; copies share the module.
///
/// Optional members:
///
///  - `b.cuda_graph_safe`: if true, training may record its work as a CUDA graph and replay it
///    (`nn::is_replayable`);
///  - `b.features(images)`: what its last layer takes, float N×F, for those who use it as a feature
///    extractor (`transforms::BackboneEncoder`);
///  - `b.named_constants()`: the tensors that it computes with and that its module does not hold,
///    as a `std::map<std::string, at::Tensor>` on the CPU. They are compared when weights are
///    loaded, and stored in exported files.
template <typename B>
concept Backbone = std::copyable<B> && requires(const B& b, const at::Tensor& images) {
  { b.task } -> std::convertible_to<Task>;
  { b.forward(images) } -> std::same_as<at::Tensor>;
  { *b.module } -> std::convertible_to<torch::nn::Module&>;
};

/// A backbone that is constant: made by `freeze`, or constant from the start.
template <typename B>
concept FrozenBackbone = Backbone<B> && requires {
  requires B::frozen;
};

/// A backbone whose input normalisation can be called separately:
/// `b.forward_normalized(b.normalize(images))` equals `b.forward(images)`.
template <typename B>
concept NormalizingBackbone = Backbone<B> && requires(const B& b, const at::Tensor& images) {
  { b.normalize(images) } -> std::same_as<at::Tensor>;
  { b.forward_normalized(images) } -> std::same_as<at::Tensor>;
};

/// A backbone that can be used without its last layer.
template <typename B>
concept FeatureBackbone = Backbone<B> && requires(const B& b, const at::Tensor& images) {
  { b.features(images) } -> std::same_as<at::Tensor>;
};

/// Returns `backbone.named_constants()`, or an empty map if it has no such member.
template <Backbone B>
std::map<std::string, at::Tensor> constants_of(const B& backbone) {
  if constexpr (requires { backbone.named_constants(); }) {
    return backbone.named_constants();
  } else {
    return {};
  }
}

using nn::deep_copy;
using nn::with_module;

/// Selects between two networks that share a name.
enum class Variant {
  cifar,     ///< for images of about 32 pixels a side, as in the authors' code for CIFAR-10
  imagenet,  ///< for images of about 224 pixels a side, as in torchvision
};

/// Returns the variant for images of a shape: `imagenet` if the shorter side is known to have more
/// than 64 pixels, otherwise `cifar`.
/// \param image height and width may be `dynamic`; if only one is known, it decides
constexpr Variant variant_for(const ImageShape& image) {
  const int shorter = image.height == dynamic || image.width == dynamic ? std::max(image.height, image.width)
                                                                        : std::min(image.height, image.width);
  return shorter > 64 ? Variant::imagenet : Variant::cifar;
}

/// Describes the first layers of a residual network: a convolution, then optionally 3×3 max pooling
/// of stride 2. The weights alone do not show whether there is max pooling.
struct Stem {
  int kernel = 3;        ///< side of the convolution's kernel: 3 (with stride 1) or 7 (with stride 2)
  bool pooling = false;  ///< whether max pooling follows

  /// True if both members are equal.
  friend constexpr bool operator==(const Stem&, const Stem&) = default;
};

/// Returns the stem that a variant was published with: 3×3 without pooling for `cifar`, 7×7 with
/// pooling for `imagenet`.
constexpr Stem stem_of(Variant variant) {
  return variant == Variant::cifar ? Stem{.kernel = 3, .pooling = false} : Stem{.kernel = 7, .pooling = true};
}

}  // namespace refine::backbones
