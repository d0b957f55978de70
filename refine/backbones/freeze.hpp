#pragma once

#include <map>
#include <string>

#include <refine/backbones/backbone.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/fold.hpp>

namespace refine {

namespace backbones {

/// The constant form of a backbone, made by `freeze`. It is not trained; gradients still flow to
/// its input.
template <Backbone B>
class Frozen {
 public:
  static constexpr Task static_task = static_task_of<B>();  ///< the task that the type of `B` fixes
  static constexpr bool frozen = true;                      ///< marks a `FrozenBackbone`

  /// Copies a backbone and prepares the copy for inference.
  /// \param source is left unchanged
  /// \throws c10::Error if its module cannot be cloned
  /// \throws Error as `deep_copy`
  explicit Frozen(const B& source)
      : inner_(deep_copy(source)),
        task(inner_.task),
        module(inner_.module),
        cuda_graph_safe(nn::is_replayable(inner_)) {
    nn::prepare_for_inference(*module);
  }

 private:
  B inner_;  // declared before the members that are initialised from it

 public:
  Task task;                   ///< the source's task
  decltype(B::module) module;  ///< the copy, without BatchNorms that could be folded
  bool cuda_graph_safe;        ///< whether the source is `cuda_graph_safe`

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return inner_.forward(images); }

  /// Returns what the last layer takes, float N×F.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor features(const at::Tensor& images) const requires FeatureBackbone<B> {
    return inner_.features(images);
  }

  /// Returns the tensors that the module does not hold, by name, on the CPU.
  std::map<std::string, at::Tensor> named_constants() const { return constants_of(inner_); }

  /// Returns the images as the network inside expects them.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor normalize(const at::Tensor& images) const requires NormalizingBackbone<B> {
    return inner_.normalize(images);
  }

  /// Returns logits N×classes.
  /// \param normalized what `normalize` returns
  at::Tensor forward_normalized(const at::Tensor& normalized) const requires NormalizingBackbone<B> {
    return inner_.forward_normalized(normalized);
  }
};

}  // namespace backbones

/// Returns the fast, constant form of a trained backbone: a copy in evaluation mode, in
/// channels-last layout, with BatchNorm folded into the convolutions and without parameter
/// gradients.
///
/// Its logits differ from the original's by rounding only; the fold is computed in double
/// precision. The same weights always give bitwise the same frozen weights. If the image shape is
/// known, original and copy are run on two images.
/// \param backbone is left unchanged
/// \throws c10::Error if its module cannot be cloned
/// \throws Error if its module is null, or the copy's outputs differ: a layer is not registered
template <backbones::Backbone B>
backbones::Frozen<B> freeze(const B& backbone) {
  return backbones::Frozen<B>(backbone);
}

/// Returns a backbone that is already frozen, unchanged. The result shares its module.
/// \param backbone a frozen backbone
template <backbones::FrozenBackbone B>
B freeze(const B& backbone) {
  return backbone;
}

}  // namespace refine
