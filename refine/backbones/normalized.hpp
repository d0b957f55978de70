#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/transfer.hpp>

namespace refine {

/// Mean and standard deviation of each channel, for images in [0, 1]: a channel x becomes
/// (x - mean) / deviation. The order is R, G, B, except inside a `backbones::Bgr`.
struct Normalization {
  std::array<double, 3> mean = {0, 0, 0};       ///< subtracted from the channels; must be finite
  std::array<double, 3> deviation = {1, 1, 1};  ///< divides the channels; must be positive and finite

  /// True if all six numbers are equal.
  friend constexpr bool operator==(const Normalization&, const Normalization&) = default;
};

/// The usual normalisations of well-known datasets.
namespace normalizations {

/// CIFAR-10.
inline constexpr Normalization cifar10 = {{0.4914, 0.4822, 0.4465}, {0.2023, 0.1994, 0.2010}};

/// ImageNet, as torchvision's models use it.
inline constexpr Normalization imagenet = {{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};

/// Fashion-MNIST, padded to 32×32 pixels.
inline constexpr Normalization fashion_mnist = {{0.2190, 0.2190, 0.2190}, {0.3318, 0.3318, 0.3318}};

}  // namespace normalizations

namespace detail {

/// True if the three means are equal, and so are the three deviations: as grey images require.
constexpr bool is_for_grey(const Normalization& normalization) {
  const auto are_equal = [](const std::array<double, 3>& v) { return v[0] == v[1] && v[1] == v[2]; };
  return are_equal(normalization.mean) && are_equal(normalization.deviation);
}

/// Returns means or deviations as a float tensor 1×C×1×1.
/// \param channels 3, or 1: then the first value alone is used
inline at::Tensor channel_tensor(const std::array<double, 3>& values, int channels) {
  const std::vector<float> floats(values.begin(), channels == 1 ? values.begin() + 1 : values.end());
  return at::tensor(floats).view({1, -1, 1, 1});
}

/// Checks that a normalization can be applied to images.
/// \param user what normalises, for the message
/// \param channels of the images; for 1, the three means must be equal, and so must the three deviations
/// \param hint what to do if the channels differ
/// \throws Error if the channels do not match, a number is not finite, or a deviation is not positive; as float
inline void check_normalization(std::string_view user, const Normalization& normalization, int channels,
                                std::string_view hint) {
  for (const double m : normalization.mean) {
    if (!std::isfinite(static_cast<float>(m)))
      throw Error("{}: means of a normalization must be finite, got {}", user, m);
  }
  for (const double d : normalization.deviation) {
    const auto value = static_cast<float>(d);
    if (!(value > 0 && std::isfinite(value)))
      throw Error("{}: deviations must be positive and finite, got {}", user, d);
  }
  if (compatible(channels, 3) || (channels == 1 && is_for_grey(normalization))) return;
  throw Error("{}: the channels differ (the normalization has 3, the network takes {}); {}", user, channels,
              hint);
}

}  // namespace detail

namespace backbones {

/// Wraps a backbone that was trained on normalised images; the result takes images in [0, 1] like
/// every other backbone. Images are normalised nowhere else.
///
///     const Normalized victim{ResNet18<tasks::cifar10>{}, normalizations::cifar10};
template <Backbone B>
class Normalized {
 public:
  static constexpr Task static_task = static_task_of<B>();  ///< the task that the type of `B` fixes

  /// Wraps a backbone.
  /// \param inner takes normalised images, of 3 channels or of 1; shares its module with the copy
  ///   inside
  /// \param normalization what `inner` was trained with. For 1 channel, its three means must be
  ///   equal, and so must its three deviations.
  /// \throws Error if a number is not finite, a deviation is not positive, or the channels do not match
  Normalized(B inner, const Normalization& normalization)
      : task(inner.task),
        module(inner.module),
        cuda_graph_safe(nn::is_replayable(inner)),
        inner_(std::move(inner)),
        normalization_(normalization),
        mean_(refine::detail::channel_tensor(normalization.mean, task.image.channels)),
        deviation_(refine::detail::channel_tensor(normalization.deviation, task.image.channels)) {
    refine::detail::check_normalization("Normalized", normalization, task.image.channels,
                                        "normalize in the backbone itself");
  }

  Task task;                   ///< the wrapped backbone's task
  decltype(B::module) module;  ///< the wrapped backbone's module
  bool cuda_graph_safe;        ///< whether the wrapped backbone is `cuda_graph_safe`

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return inner_.forward(normalize(images)); }

  /// Returns normalised images.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor normalize(const at::Tensor& images) const {
    return (images - mean_.on(images.device())) / deviation_.on(images.device());
  }

  /// Returns logits N×classes.
  /// \param normalized what `normalize` returns
  at::Tensor forward_normalized(const at::Tensor& normalized) const { return inner_.forward(normalized); }

  /// Returns the tensors `mean` and `deviation`, 1×C×1×1, on the CPU.
  std::map<std::string, at::Tensor> named_constants() const {
    return {{"mean", mean_.on_host()}, {"deviation", deviation_.on_host()}};
  }

  /// Returns the normalisation that was given to the constructor.
  const Normalization& normalization() const { return normalization_; }

  /// Returns the same backbone around another module of the same type.
  Normalized with_module(decltype(B::module) other) const {
    return Normalized(backbones::with_module(inner_, std::move(other)), normalization_);
  }

 private:
  B inner_;
  Normalization normalization_;
  nn::DeviceCachedTensor mean_, deviation_;
};

/// Wraps a backbone that was trained on images in the channel order blue, green, red, as OpenCV
/// reads them; the result takes RGB images like every other backbone. A normalisation goes inside,
/// in the order of the model's channels:
///
///     Bgr{Normalized{network, {{0.4465, 0.4822, 0.4914}, {0.2010, 0.1994, 0.2023}}}}
template <Backbone B>
class Bgr {
 public:
  static constexpr Task static_task = static_task_of<B>();  ///< the task that the type of `B` fixes

  /// Wraps a backbone.
  /// \param inner takes BGR images; shares its module with the copy inside
  /// \throws Error if it does not take images of 3 channels
  explicit Bgr(B inner)
      : task(inner.task),
        module(inner.module),
        cuda_graph_safe(nn::is_replayable(inner)),
        inner_(std::move(inner)) {
    if (!compatible(task.image.channels, 3)) {
      throw Error("Bgr: the backbone must take 3 channels, got {}", task.image.channels);
    }
  }

  Task task;                   ///< the wrapped backbone's task
  decltype(B::module) module;  ///< the wrapped backbone's module
  bool cuda_graph_safe;        ///< whether the wrapped backbone is `cuda_graph_safe`

  /// Returns logits N×classes.
  /// \param images float N×3×H×W in [0, 1], RGB
  at::Tensor forward(const at::Tensor& images) const { return inner_.forward(images.flip(1)); }

  /// Returns the images as the network inside expects them: BGR, and normalised if the wrapped
  /// backbone normalises.
  /// \param images float N×3×H×W in [0, 1], RGB
  at::Tensor normalize(const at::Tensor& images) const {
    if constexpr (NormalizingBackbone<B>) {
      return inner_.normalize(images.flip(1));
    } else {
      return images.flip(1);
    }
  }

  /// Returns logits N×classes.
  /// \param normalized what `normalize` returns
  at::Tensor forward_normalized(const at::Tensor& normalized) const {
    if constexpr (NormalizingBackbone<B>) {
      return inner_.forward_normalized(normalized);
    } else {
      return inner_.forward(normalized);
    }
  }

  /// Returns the wrapped backbone's constants and `channel_order`, on the CPU.
  std::map<std::string, at::Tensor> named_constants() const {
    auto constants = constants_of(inner_);
    constants["channel_order"] = at::tensor({2.0f, 1.0f, 0.0f});
    return constants;
  }

  /// Returns the same backbone around another module of the same type.
  Bgr with_module(decltype(B::module) other) const {
    return Bgr(backbones::with_module(inner_, std::move(other)));
  }

 private:
  B inner_;
};

}  // namespace backbones

}  // namespace refine
