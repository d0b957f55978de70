#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/transfer.hpp>

namespace refine {

/// Per-channel mean and standard deviation of images in [0, 1], in the order R, G, B.
struct Normalization {
  std::array<double, 3> mean = {0, 0, 0};
  std::array<double, 3> deviation = {1, 1, 1};

  friend constexpr bool operator==(const Normalization&, const Normalization&) = default;
};

namespace normalizations {

inline constexpr Normalization cifar10 = {{0.4914, 0.4822, 0.4465}, {0.2023, 0.1994, 0.2010}};
inline constexpr Normalization imagenet = {{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};
inline constexpr Normalization fashion_mnist = {{0.2190, 0.2190, 0.2190},
                                                {0.3318, 0.3318, 0.3318}};  ///< of 32×32

}  // namespace normalizations

namespace backbones {

/// A backbone that wants normalised images, behind the normalisation it wants: takes images in [0, 1] as
/// every backbone here does. This is the only place where images are normalised.
template <Backbone B>
class Normalized {
 public:
  static constexpr Task static_task = static_task_of<B>();

  /// A backbone of one channel takes the same number three times. \throws Error when a deviation is not
  /// positive, or the backbone takes neither RGB nor grey images.
  Normalized(B inner, const Normalization& by)
      : task(inner.task),
        module(inner.module),
        cuda_graph_safe(nn::is_replayable(inner)),
        inner_(std::move(inner)),
        by_(by),
        mean_(row(by.mean, task.image.channels)),
        deviation_(row(by.deviation, task.image.channels)) {
    const auto alike = [](const std::array<double, 3>& v) { return v[0] == v[1] && v[1] == v[2]; };
    const bool grey = task.image.channels == 1 && alike(by.mean) && alike(by.deviation);
    if (!grey && !compatible(task.image.channels, 3)) {
      throw Error("a Normalization has 3 channels, the backbone takes {}; normalise in the backbone itself",
                  task.image.channels);
    }
    for (double d : by.deviation) {
      if (!(d > 0)) throw Error("a Normalization was given the deviation {}; deviations are above 0", d);
    }
  }

  Task task;
  decltype(B::module) module;
  bool cuda_graph_safe;

  /// Float N×3×H×W in [0, 1] → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return inner_.forward(normalize(images)); }

  /// Images in [0, 1] → what the inner backbone was trained on.
  at::Tensor normalize(const at::Tensor& images) const {
    return (images - mean_.on(images.device())) / deviation_.on(images.device());
  }

  at::Tensor forward_normalized(const at::Tensor& normalized) const { return inner_.forward(normalized); }

  /// The tensors that are no parameters, on the host, by name.
  std::map<std::string, at::Tensor> named_constants() const {
    return {{"mean", mean_.on_host()}, {"deviation", deviation_.on_host()}};
  }

  const Normalization& normalization() const { return by_; }

  Normalized with_module(decltype(B::module) other) const {
    return Normalized(backbones::with_module(inner_, std::move(other)), by_);
  }

 private:
  static nn::DeviceCachedTensor row(const std::array<double, 3>& values, int channels) {
    const std::vector<float> floats(values.begin(), channels == 1 ? values.begin() + 1 : values.end());
    return nn::DeviceCachedTensor(at::tensor(floats).view({1, -1, 1, 1}));
  }

  B inner_;
  Normalization by_;
  nn::DeviceCachedTensor mean_, deviation_;
};

}  // namespace backbones

}  // namespace refine

namespace refine::backbones {

/// A backbone that was trained on images whose channels are blue, green, red, as OpenCV reads them: takes RGB
/// images, as every backbone here does. A normalisation belongs inside, with its numbers in the order of the
/// model's channels:
///
///     Bgr{Normalized{network, {{0.4465, 0.4822, 0.4914}, {0.2010, 0.1994, 0.2023}}}}
template <Backbone B>
class Bgr {
 public:
  static constexpr Task static_task = static_task_of<B>();

  /// \throws Error if the backbone does not take images of 3 channels
  explicit Bgr(B inner)
      : task(inner.task),
        module(inner.module),
        cuda_graph_safe(nn::is_replayable(inner)),
        inner_(std::move(inner)) {
    if (!compatible(task.image.channels, 3)) {
      throw Error("Bgr: the backbone must take 3 channels, got {}", task.image.channels);
    }
  }

  Task task;
  decltype(B::module) module;
  bool cuda_graph_safe;

  /// Float N×3×H×W in [0, 1], RGB → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return inner_.forward(images.flip(1)); }

  /// RGB images in [0, 1] → what the network inside was trained on.
  at::Tensor normalize(const at::Tensor& images) const {
    if constexpr (NormalizingBackbone<B>) {
      return inner_.normalize(images.flip(1));
    } else {
      return images.flip(1);
    }
  }

  at::Tensor forward_normalized(const at::Tensor& normalized) const {
    if constexpr (NormalizingBackbone<B>) {
      return inner_.forward_normalized(normalized);
    } else {
      return inner_.forward(normalized);
    }
  }

  /// The inner backbone's, and the order of the channels.
  std::map<std::string, at::Tensor> named_constants() const {
    auto constants = constants_of(inner_);
    constants["channel_order"] = at::tensor({2.0f, 1.0f, 0.0f});
    return constants;
  }

  Bgr with_module(decltype(B::module) other) const {
    return Bgr(backbones::with_module(inner_, std::move(other)));
  }

 private:
  B inner_;
};

}  // namespace refine::backbones
