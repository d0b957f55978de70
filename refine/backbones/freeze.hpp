#pragma once

#include <map>
#include <string>

#include <refine/backbones/backbone.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/fold.hpp>

namespace refine {

namespace backbones {

/// The constant form of a backbone, as `freeze` makes it. Nobody trains it; gradients still flow to its
/// input.
template <Backbone B>
class Frozen {
 public:
  static constexpr Task static_task = static_task_of<B>();
  static constexpr bool frozen = true;

  explicit Frozen(const B& source)
      : inner_(deep_copy(source)),
        task(inner_.task),
        module(inner_.module),
        cuda_graph_safe(nn::is_replayable(inner_)) {
    nn::prepare_for_inference(*module);
  }

 private:
  B inner_;  // before the two below, which look into it

 public:
  Task task;
  decltype(B::module) module;
  bool cuda_graph_safe;

  at::Tensor forward(const at::Tensor& images) const { return inner_.forward(images); }

  std::map<std::string, at::Tensor> named_constants() const { return constants_of(inner_); }

  at::Tensor normalize(const at::Tensor& images) const requires NormalizingBackbone<B> {
    return inner_.normalize(images);
  }

  at::Tensor forward_normalized(const at::Tensor& normalized) const requires NormalizingBackbone<B> {
    return inner_.forward_normalized(normalized);
  }
};

}  // namespace backbones

/// The fast, constant form of a trained backbone: a copy in evaluation mode, BatchNorm folded into the
/// convolutions, channels-last, without parameter gradients. Logits differ from the original's by rounding
/// only (the fold is computed in double). The original stays as it is.
///
/// *Determinism*: the same weights give bitwise the same frozen weights.
template <backbones::Backbone B>
backbones::Frozen<B> freeze(const B& backbone) {
  return backbones::Frozen<B>(backbone);
}

template <backbones::FrozenBackbone B>
B freeze(const B& backbone) {
  return backbone;
}

}  // namespace refine
