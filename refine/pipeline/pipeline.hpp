#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <c10/core/Device.h>

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/transfer.hpp>
#include <refine/remaps/remap.hpp>
#include <refine/transforms/freeze.hpp>
#include <refine/transforms/transform.hpp>

namespace refine {

/// A victim behind its defense, whether built here (`Pipeline`) or read from an exported file (`ExportedClassifier`). For
/// `d` of type `D` and float images N×C×H×W in [0, 1]:
///
///  1. `d.task()` is its `Task`, `d.device()` where it computes;
///  2. `d.forward(images)`: defended logits, N×classes;
///  3. `d.undefended(images)`: the victim's own logits, N×classes;
///  4. `d.transformed(images)`: the images that the victim sees, N×C×H×W in [0, 1];
///  5. `d.alarm(images)`: N scores in [0, 1], see `alarm_score`.
template <typename D>
concept DefendedClassifier = requires(const D& d, const at::Tensor& images) {
  { d.task() } -> std::convertible_to<Task>;
  { d.device() } -> std::convertible_to<at::Device>;
  { d.forward(images) } -> std::same_as<at::Tensor>;
  { d.undefended(images) } -> std::same_as<at::Tensor>;
  { d.transformed(images) } -> std::same_as<at::Tensor>;
  { d.alarm(images) } -> std::same_as<at::Tensor>;
};

/// How much two answers to the same image disagree: the total variation distance between their class
/// probabilities, 0 where they say the same and 1 where they share nothing. A trigger moves the undefended
/// answer and not the defended one, so a triggered image scores high.
/// \param undefended, defended logits N×classes under the same names \return float N, in [0, 1]
inline at::Tensor alarm_score(const at::Tensor& undefended, const at::Tensor& defended) {
  const at::Tensor shared = at::minimum(at::softmax(undefended, 1), at::softmax(defended, 1)).sum(1);
  return (1 - shared).clamp(0, 1);
}

/// Why a transform, a backbone and a remap can't make a pipeline; empty when they can. Open extents fit
/// anything.
constexpr Message check_parts(const ImageShape& transform, const Task& backbone, int remap) {
  Message why;
  if (!compatible(transform, backbone.image)) {
    why << "the transform rewrites " << transform << " images, the backbone takes " << backbone.image
        << "; give both the same Task [Pipeline]";
  } else if (!compatible(remap, backbone.classes)) {
    why << "the remap renames " << remap << " classes, the backbone predicts " << backbone.classes
        << "; give both the same Task [Pipeline]";
  }
  return why;
}

/// Why a part's fields deny what its type says; empty when they do not.
constexpr Message denied(std::string_view part, const Task& type, const Task& fields) {
  Message why;
  if (!compatible(type.image, fields.image)) {
    why << "the " << part << "'s type says " << type.image << " images, its field " << fields.image
        << "; leave the field out [Pipeline]";
  } else if (!compatible(type.classes, fields.classes)) {
    why << "the " << part << "'s type says " << type.classes << " classes, its field " << fields.classes
        << "; leave the field out [Pipeline]";
  }
  return why;
}

/// Which pixels the transform and the backbone see.
enum class PixelDomain {
  image,      ///< images in [0, 1] everywhere; the backbone normalises what the transform returns
  reference,  ///< as in the published code: the transform sees normalised images, and what it returns,
              ///< in [0, 1], goes to the backbone as it is. For checkpoints of the reference.
};

namespace detail {

constexpr Message not_frozen(bool frozen) {
  Message why;
  if (!frozen) why << "the backbone can still be trained; wrap it as freeze(victim) [Pipeline]";
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
template <transforms::Transform T, backbones::Backbone B, remaps::Remap R>
class Pipeline {
  static_assert(Agreement<detail::not_frozen(backbones::FrozenBackbone<B>)>::holds);
  static_assert(
      Agreement<check_parts(static_image_of<T>(), static_task_of<B>(), static_classes_of<R>())>::holds);

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
    require_agreement(check_parts(transform_.image, backbone_.task, remap_.classes));
    require_agreement(check_parts({}, {{}, merged(remap_.classes, backbone_.task.classes)},
                                  static_cast<int>(remap_.permutation.size())));
    if (domain == PixelDomain::reference && !backbones::NormalizingBackbone<B>) {
      throw Error(
          "PixelDomain::reference needs a backbone with a normalisation of its own; wrap it in "
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
    require_agreement(check_parts({}, {{}, backbone_.task.classes}, static_cast<int>(permutation.size())));
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
          "the pipeline's transform is on {} and its backbone on {}, as one of them is shared and was "
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
  static nn::DeviceCachedTensor sources(const std::vector<std::int64_t>& permutation) {
    require_agreement(remaps::not_a_bijection(permutation));
    return nn::DeviceCachedTensor(at::tensor(remaps::inverse(permutation)));
  }

  T transform_;
  B backbone_;
  R remap_;
  PixelDomain domain_;
  at::Device device_ = at::kCPU;  ///< of networks that have no tensors
  nn::DeviceCachedTensor sources_;
};

/// A trained defense for serving: the same answers, to rounding, by fewer steps; its transform is a frozen
/// copy, and the victim is shared, since it is frozen already. `export_torchscript` writes this form.
///
///     auto serving = freeze(defense);
///     at::Tensor logits = serving.forward(images);
///
/// \throws c10::Error when the transform's module does not say how it is cloned (`transforms::can_freeze`)
template <typename T, typename B, typename R>
auto freeze(const Pipeline<T, B, R>& defense) {
  Pipeline serving{freeze(defense.transform()), defense.backbone(), defense.remap(), defense.domain()};
  serving.to(defense.device());  // networks without tensors do not tell it
  return serving;
}

}  // namespace refine
