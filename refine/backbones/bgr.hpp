#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <map>
#include <memory>
#include <string>
#include <utility>

#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/nn/repeated.hpp>

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
      : task(inner.task), module(inner.module), replayable(nn::is_replayable(inner)), inner_(std::move(inner)) {
    if (!compatible(task.image.channels, 3)) {
      throw Error("Bgr: the backbone must take 3 channels, got {}", task.image.channels);
    }
  }

  Task task;
  decltype(B::module) module;
  bool replayable;

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
