#pragma once

#include <ATen/ops/tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/agreement.hpp>
#include <refine/core/error.hpp>
#include <refine/nn/channels_last.hpp>
#include <refine/nn/device_of.hpp>
#include <refine/nn/host_constant.hpp>
#include <refine/pipeline/alarm_score.hpp>
#include <refine/pipeline/fit_together.hpp>
#include <refine/remaps/remapping_strategy.hpp>
#include <refine/transforms/transform_network.hpp>

namespace refine {

/// Which pixels the transform and the backbone see.
enum class PixelDomain {
  image,      ///< images in [0, 1] everywhere; the backbone normalises what the transform returns
  reference,  ///< as in the published code: the transform sees normalised images, and what it returns,
              ///< in [0, 1], goes to the backbone as it is. For checkpoints of the reference.
};

namespace detail {

constexpr Message not_frozen(bool frozen) {
  Message why;
  if (!frozen) why << "refine: the backbone can still be trained; wrap it as freeze(victim) [Pipeline]";
  return why;
}

}  // namespace detail

/// The defended classifier: transform, frozen backbone, remap (Chen et al., 2025, `chen2025refine`).
///
///     auto defense = Pipeline{transforms::UNet<task>{}, freeze(victim), remaps::Derangement<task>{}};
///
/// Parts that disagree on the image shape or the number of classes do not compile; what is `dynamic` is
/// checked at construction, in the same words. The transform moves to the backbone's device and to
/// channels-last layout.
///
/// As with LibTorch's modules, copies share their networks: training one trains the other. For two
/// transforms, make two.
template <transforms::TransformNetwork T, backbones::Backbone B, remaps::RemappingStrategy R>
class Pipeline {
  static_assert(Agreement<detail::not_frozen(backbones::FrozenBackbone<B>)>::holds);
  static_assert(
      Agreement<fit_together(static_image_of<T>(), static_task_of<B>(), static_classes_of<R>())>::holds);

 public:
  static constexpr Task static_task =
      merged(static_task_of<B>(), Task{static_image_of<T>(), static_classes_of<R>()});

  /// \throws Error when the parts disagree, the remap is no permutation, or the reference's pixel domain is
  ///   asked of a backbone that has no normalisation of its own.
  Pipeline(T transform, B backbone, R remap, PixelDomain domain = PixelDomain::image)
      : transform_(std::move(transform)),
        backbone_(std::move(backbone)),
        remap_(std::move(remap)),
        domain_(domain),
        sources_(sources(remap_.permutation)) {
    require_agreement(denied("transform", {static_image_of<T>(), dynamic}, {transform_.image, dynamic}));
    require_agreement(denied("backbone", static_task_of<B>(), backbone_.task));
    require_agreement(denied("remap", {{}, static_classes_of<R>()}, {{}, remap_.classes}));
    require_agreement(fit_together(transform_.image, backbone_.task, remap_.classes));
    require_agreement(fit_together({}, {{}, merged(remap_.classes, backbone_.task.classes)},
                                   static_cast<int>(remap_.permutation.size())));
    if (domain == PixelDomain::reference && !backbones::NormalizingBackbone<B>) {
      throw Error(
          "refine: PixelDomain::reference needs a backbone with a normalisation of its own; wrap it in "
          "backbones::Normalized before freezing [Pipeline]");
    }
    to(nn::device_of(*backbone_.module).value_or(at::kCPU));
    nn::to_channels_last(*transform_.module);
    transform_.module->eval();
  }

  Task task() const { return merged(backbone_.task, Task{transform_.image, remap_.classes}); }

  /// Images N×C×H×W in [0, 1] → what the transform makes of them, in [0, 1].
  at::Tensor transformed(const at::Tensor& images) const {
    if constexpr (backbones::NormalizingBackbone<B>) {
      if (domain_ == PixelDomain::reference) return transform_.forward(backbone_.normalize(images));
    }
    return transform_.forward(images);
  }

  /// What `transformed` returned → logits N×classes, under the names that the remap gives.
  at::Tensor classify_transformed(const at::Tensor& images) const {
    at::Tensor logits;
    if constexpr (backbones::NormalizingBackbone<B>) {
      if (domain_ == PixelDomain::reference) logits = backbone_.forward_normalized(images);
    }
    if (!logits.defined()) logits = backbone_.forward(images);
    return logits.index_select(1, sources_.on(logits.device()));
  }

  /// Images N×C×H×W in [0, 1] → defended logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return classify_transformed(transformed(images)); }

  /// The victim alone: images N×C×H×W in [0, 1] → logits N×classes.
  at::Tensor undefended(const at::Tensor& images) const { return backbone_.forward(images); }

  /// Images N×C×H×W in [0, 1] → N scores in [0, 1], high where the defense changed the answer much.
  at::Tensor alarm(const at::Tensor& images) const {
    return alarm_score(undefended(images), forward(images));
  }

  /// The tensors that are no parameters, on the host, by name: the backbone's, and where each logit comes
  /// from.
  std::map<std::string, at::Tensor> named_constants() const {
    std::map<std::string, at::Tensor> constants = backbones::constants_of(backbone_);
    constants["sources"] = sources_.on_host();
    return constants;
  }

  /// Gives the remap another permutation, as when a saved defense is loaded.
  /// \throws Error when it is no permutation of the pipeline's classes
  void rename_classes(std::vector<std::int64_t> permutation) {
    require_agreement(fit_together({}, {{}, backbone_.task.classes}, static_cast<int>(permutation.size())));
    sources_ = sources(permutation);
    remap_.permutation = std::move(permutation);
  }

  /// Moves the networks, which copies share.
  void to(at::Device device) {
    nn::move_to(*transform_.module, device);
    nn::move_to(*backbone_.module, device);
    device_ = device;
  }

  /// Where its networks are, also when something else that shares them has moved them.
  /// \throws Error when the two are on different devices
  at::Device device() const {
    const auto transform = nn::device_of(*transform_.module), backbone = nn::device_of(*backbone_.module);
    if (transform && backbone && *transform != *backbone) {
      throw Error(
          "refine: the pipeline's transform is on {} and its backbone on {}, as one of them is shared and was "
          "moved; call defense.to(device) [Pipeline]",
          transform->str(), backbone->str());
    }
    return transform ? *transform : backbone.value_or(device_);
  }

  const T& transform() const { return transform_; }
  const B& backbone() const { return backbone_; }
  const R& remap() const { return remap_; }
  PixelDomain domain() const { return domain_; }

 private:
  /// apply(logits)[:, permutation[j]] = logits[:, j], as a gather.
  static nn::HostConstant sources(const std::vector<std::int64_t>& permutation) {
    require_agreement(remaps::not_a_bijection(permutation));
    return nn::HostConstant(at::tensor(remaps::inverse(permutation)));
  }

  T transform_;
  B backbone_;
  R remap_;
  PixelDomain domain_;
  at::Device device_ = at::kCPU;  ///< of networks that have no tensors
  nn::HostConstant sources_;
};

}  // namespace refine
