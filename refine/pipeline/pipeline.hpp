#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <torch/nn/module.h>

#include <concepts>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/transfer.hpp>
#include <refine/remaps/remap.hpp>
#include <refine/transforms/any_transform.hpp>
#include <refine/transforms/freeze.hpp>
#include <refine/transforms/transform.hpp>

namespace refine {

/// A defended classifier: a `Pipeline`, or one read from an exported file (`ExportedClassifier`).
/// For `d` of type `D` and float images N×C×H×W in [0, 1] on `d.device()`:
///
///  1. `d.task()` returns its `Task`, `d.device()` the device that it computes on;
///  2. `d.forward(images)` returns the defended logits, N×classes;
///  3. `d.undefended(images)` returns the victim's logits, N×classes;
///  4. `d.transformed(images)` returns the images that the victim sees, in [0, 1]; their height and
///     width may differ from those of `images`;
///  5. `d.alarm(images)` returns N scores in [0, 1], or infinity (`alarm_score`).
template <typename D>
concept DefendedClassifier = requires(const D& d, const at::Tensor& images) {
  { d.task() } -> std::convertible_to<Task>;
  { d.device() } -> std::convertible_to<at::Device>;
  { d.forward(images) } -> std::same_as<at::Tensor>;
  { d.undefended(images) } -> std::same_as<at::Tensor>;
  { d.transformed(images) } -> std::same_as<at::Tensor>;
  { d.alarm(images) } -> std::same_as<at::Tensor>;
};

/// A defended classifier taken apart, in the form in which it is served: what exporters write. Its
/// defended logits are `classify(transform(images))`.
struct ServedParts {
  /// Takes and returns a float tensor of N rows, on the device of `modules`.
  using Function = std::function<at::Tensor(const at::Tensor&)>;

  Task task = {};  ///< image shape and number of classes
  /// The modules that hold the tensors, each with its name in the file. They are constant.
  std::vector<std::pair<std::string, std::shared_ptr<torch::nn::Module>>> modules = {};
  std::map<std::string, at::Tensor> constants = {};  ///< tensors that no module holds, by name, on the CPU
  std::vector<std::int64_t> permutation = {};        ///< of the remap; empty: no remap
  Function transform = {};   ///< images N×C×H×W in [0, 1] → what `classify` takes, also in [0, 1]
  Function classify = {};    ///< what `transform` returns → defended logits N×classes
  Function undefended = {};  ///< images N×C×H×W in [0, 1] → the victim's logits N×classes
  std::optional<double> alarm_threshold = std::nullopt;  ///< of a `Gated`; nothing: it is not gated
};

/// A defended classifier that can be exported: `export_defense` and the functions that it calls take
/// it. For `d` of type `D`, in addition to `DefendedClassifier`:
///
///  1. `d.served_parts()` returns its `ServedParts`. They share no tensor that training changes, and
///     `d.forward(x)` equals `classify(transform(x))` but for rounding, unless `d` is gated.
///
/// `Pipeline`, `baselines::Substitute`, and `Gated` of either satisfy it.
template <typename D>
concept ServableDefense = DefendedClassifier<D> && requires(const D& d) {
  { d.served_parts() } -> std::same_as<ServedParts>;
};

/// Returns how much two answers to the same images disagree: the total variation distance between
/// their class probabilities, 0 for equal and 1 for disjoint ones.
///
/// A trigger changes the undefended answer and not the defended one, so a triggered image scores
/// high.
/// \param undefended logits N×classes
/// \param defended logits N×classes, with the same order of classes
/// \return float N in [0, 1]; infinity if an answer has no softmax, since a logit is NaN or +∞. A class whose
///   logit is −∞ has probability 0.
inline at::Tensor alarm_score(const at::Tensor& undefended, const at::Tensor& defended) {
  const at::Tensor shared = at::minimum(at::softmax(undefended, 1), at::softmax(defended, 1)).sum(1);
  const at::Tensor score = (1 - shared).clamp(0, 1);
  return score.masked_fill(score.ne(score), std::numeric_limits<double>::infinity());  // for NaN
}

/// The range of the pixels that the transform takes and returns.
enum class PixelDomain {
  /// Images in [0, 1] everywhere; the backbone normalises the output of the transform.
  image,
  /// As in the authors' code: the transform takes normalised images, and its output, in [0, 1],
  /// goes to the backbone without normalisation. For checkpoints of that code.
  reference,
};

namespace detail {

/// Checks that a transform, a backbone and a remap fit together. A `dynamic` extent fits any.
/// \param transform the shape that the transform rewrites
/// \param backbone the task of the victim
/// \param remap the number of classes that the remap renames
/// \return the reason if they do not fit; empty otherwise
constexpr Message check_parts(const ImageShape& transform, const Task& backbone, int remap) {
  Message why;
  if (!compatible(transform, backbone.image)) {
    why << "Pipeline: the transform rewrites " << transform << " images, but the backbone takes "
        << backbone.image << "; give both the same Task";
  } else if (!compatible(remap, backbone.classes)) {
    why << "Pipeline: the remap renames " << remap << " classes, but the backbone predicts "
        << backbone.classes << "; give both the same Task";
  }
  return why;
}

/// Checks that the victim can be asked with what a transform draws. A `dynamic` extent fits any.
/// \param drawn the shape of the images that the transform returns
/// \param backbone the images that the backbone is made for
/// \param takes whether the backbone takes `drawn`, if that has another height or width
/// \return the reason if it cannot; empty otherwise
constexpr Message check_drawn(const ImageShape& drawn, const ImageShape& backbone, bool takes) {
  Message why;
  if (!compatible(drawn.channels, backbone.channels)) {
    why << "Pipeline: the transform draws " << drawn << " images, but the backbone takes " << backbone
        << "; give both the same channels";
  } else if (!takes) {
    why << "Pipeline: the transform draws " << drawn << " images, but the backbone takes no size other than "
        << backbone << "; set the transform's output_shape to that (--draw " << backbone.height << ")";
  }
  return why;
}

/// Returns a backbone's logits for two blank images; undefined if it does not take them.
/// \param shape of the images, fully known
/// \param device of the backbone
template <backbones::Backbone B>
at::Tensor ask_about_blank_images(const B& backbone, const ImageShape& shape, at::Device device) {
  try {
    return nn::detail::ask(
        backbone, at::zeros({2, shape.channels, shape.height, shape.width}, at::TensorOptions(device))
                      .contiguous(at::MemoryFormat::ChannelsLast));
  } catch (const std::exception&) {
    return {};
  }
}

/// True if a backbone answers images of a shape that it may not be made for.
/// \param shape if it is not fully known, nothing is asked
/// \param device of the backbone
template <backbones::Backbone B>
bool takes_images(const B& backbone, const ImageShape& shape, at::Device device) {
  if (!shape.is_static()) return true;
  const at::Tensor logits = ask_about_blank_images(backbone, shape, device);
  return logits.defined() && logits.dim() == 2 && logits.size(0) == 2 &&
         compatible(Task(backbone.task).classes, static_cast<int>(logits.size(1)));
}

/// Checks that the fields of a part do not contradict its type.
/// \param part its name in the message
/// \param type what its type fixes
/// \param fields what its fields hold
/// \return the reason if they contradict; empty otherwise
constexpr Message check_fields(std::string_view part, const Task& type, const Task& fields) {
  Message why;
  if (!compatible(type.image, fields.image)) {
    why << "Pipeline: the type of the " << part << " fixes " << type.image << " images, but its field has "
        << fields.image << "; omit the field";
  } else if (!compatible(type.classes, fields.classes)) {
    why << "Pipeline: the type of the " << part << " fixes " << type.classes << " classes, but its field has "
        << fields.classes << "; omit the field";
  }
  return why;
}

/// Checks that a backbone is frozen.
constexpr Message check_frozen(bool frozen) {
  Message why;
  if (!frozen) why << "Pipeline: the backbone can still be trained; pass freeze(victim)";
  return why;
}

}  // namespace detail

/// A defended classifier: a transform, a frozen backbone and a remap (Chen et al., 2025,
/// `chen2025refine`).
///
/// ```cpp
/// auto defense = Pipeline{transforms::UNet<task>{}, freeze(victim), remaps::Derangement<task>{}};
/// ```
///
/// Parts that disagree on the image shape or on the number of classes do not compile; `dynamic`
/// extents are checked at construction with the same message.
///
/// Copies share their networks, as those of LibTorch's modules do: training one trains the other. A
/// pipeline that was moved from is such a copy.
///
/// The functions of images take them on `device()` and do not move them. While the transform is
/// trainable, they record what is needed for gradients: use `c10::InferenceMode` or `freeze` for
/// inference.
///
/// \tparam T the transform
/// \tparam B the backbone, frozen
/// \tparam R the remap
template <transforms::Transform T, backbones::Backbone B, remaps::Remap R>
class Pipeline {
  static_assert(Agreement<detail::check_frozen(backbones::FrozenBackbone<B>)>::holds);
  static_assert(Agreement<detail::check_parts(static_image_of<T>(), static_task_of<B>(),
                                              static_classes_of<R>())>::holds);
  static_assert(Agreement<detail::check_drawn(transforms::static_output_shape_of<T>(),
                                              static_task_of<B>().image, /*takes=*/true)>::holds);

 public:
  /// What is known of the task at compile time.
  static constexpr Task static_task =
      merged(static_task_of<B>(), Task{static_image_of<T>(), static_classes_of<R>()});

  /// Combines three parts. The module of the transform, which copies of the transform share, moves
  /// to the device of the backbone, to channels-last layout and to evaluation mode.
  /// \param transform rewrites the images
  /// \param backbone the victim, frozen
  /// \param remap renames the classes
  /// \param domain which pixels the transform takes
  /// \throws Error if the parts disagree, if the remap is not a permutation, or if
  ///   `PixelDomain::reference` is requested for a backbone that does not normalise or a transform
  ///   with an encoder. If the shape of the images is known, the backbone is asked once about two blank
  ///   ones: whether it takes what the transform draws, and returns logits of its classes.
  Pipeline(T transform, B backbone, R remap, PixelDomain domain = PixelDomain::image)
      : transform_(std::move(transform)),
        backbone_(std::move(backbone)),
        remap_(std::move(remap)),
        domain_(domain),
        victim_classes_(victim_classes(remap_.permutation)) {
    transforms::check_members(transform_);
    backbones::check_members(backbone_);
    require_agreement(
        detail::check_fields("transform", {static_image_of<T>(), dynamic}, {transform_.image, dynamic}));
    require_agreement(detail::check_fields("backbone", static_task_of<B>(), backbone_.task));
    require_agreement(detail::check_fields("remap", {{}, static_classes_of<R>()}, {{}, remap_.classes}));
    require_agreement(detail::check_parts(transform_.image, backbone_.task, remap_.classes));
    require_agreement(detail::check_parts({}, {{}, merged(remap_.classes, backbone_.task.classes)},
                                          static_cast<int>(remap_.permutation.size())));
    if (domain == PixelDomain::reference && !backbones::NormalizingBackbone<B>) {
      throw Error(
          "Pipeline: PixelDomain::reference needs a backbone that normalises; wrap it in backbones::Normalized "
          "before freezing it");
    }
    if (domain == PixelDomain::reference && transforms::encoder_module_of(transform_)) {
      throw Error(
          "Pipeline: PixelDomain::reference gives the transform normalised images, but its encoder takes images in "
          "[0, 1]; use PixelDomain::image");
    }
    to(nn::device_of(*backbone_.module).value_or(at::kCPU));
    nn::to_channels_last(*transform_.module);
    transform_.module->eval();
    const ImageShape drawn = transforms::output_shape_of(transform_);
    const bool is_as_made = compatible(drawn, task().image);
    const bool takes = is_as_made || detail::takes_images(backbone_, drawn, this->device());
    require_agreement(detail::check_drawn(drawn, backbone_.task.image, takes));
    if (is_as_made) check_backbone(merged(drawn, task().image));
  }

  // A move copies, which costs little: the networks are shared, and both pipelines can be used.
  Pipeline(const Pipeline&) = default;             ///< Shares the networks, but not the remap.
  Pipeline& operator=(const Pipeline&) = default;  ///< Shares the networks, but not the remap.

  /// Returns the task: images of one shape and the number of classes.
  Task task() const { return merged(backbone_.task, Task{transform_.image, remap_.classes}); }

  /// Returns the transform's output.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return float images in [0, 1], of the shape that the transform draws
  at::Tensor transformed(const at::Tensor& images) const {
    check_images(images);
    if constexpr (backbones::NormalizingBackbone<B>) {
      if (domain_ == PixelDomain::reference) return transform_.forward(backbone_.normalize(images));
    }
    return transform_.forward(images);
  }

  /// Returns the transform's output, and its bottleneck if it has one.
  /// \param input images as `transformed` takes them or, for a transform with an encoder, their
  ///   features, on `device()`
  transforms::Drawn draw(const at::Tensor& input) const {
    if constexpr (backbones::NormalizingBackbone<B>) {
      if (domain_ == PixelDomain::reference) return transforms::draw(transform_, backbone_.normalize(input));
    }
    return transforms::draw(transform_, input);
  }

  /// Classifies the output of `transformed`.
  /// \param images float images in [0, 1], of the shape that the transform draws, on `device()`
  /// \return logits N×classes, with the classes renamed
  at::Tensor classify_transformed(const at::Tensor& images) const {
    at::Tensor logits;
    if constexpr (backbones::NormalizingBackbone<B>) {
      if (domain_ == PixelDomain::reference) logits = backbone_.forward_normalized(images);
    }
    if (!logits.defined()) logits = backbone_.forward(images);
    return logits.index_select(1, victim_classes_.on(logits.device()));
  }

  /// Classifies images with the defense.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return logits N×classes
  at::Tensor forward(const at::Tensor& images) const { return classify_transformed(transformed(images)); }

  /// Classifies images with the victim alone.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return logits N×classes
  at::Tensor undefended(const at::Tensor& images) const {
    check_images(images);
    return backbone_.forward(images);
  }

  /// Returns how much the defense changes the answers (`alarm_score`).
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return float N in [0, 1], or infinity
  at::Tensor alarm(const at::Tensor& images) const {
    return alarm_score(undefended(images), forward(images));
  }

  /// Returns the constant tensors by name, on the host: those of the backbone, and `sources`, the
  /// victim's class for each logit.
  std::map<std::string, at::Tensor> named_constants() const {
    std::map<std::string, at::Tensor> constants = backbones::constants_of(backbone_);
    constants["sources"] = victim_classes_.on_host();
    return constants;
  }

  /// Returns the parts that exporters write. The transform is in its frozen form if it has one
  /// (`transforms::can_freeze`).
  ServedParts served_parts() const {
    if constexpr (!transforms::FrozenTransform<T>) {
      if (transforms::can_freeze(transform_)) return freeze(*this).served_parts();
    }
    return {.task = task(),
            .modules = {{"transform_network", transform_.module}, {"backbone", backbone_.module}},
            .constants = named_constants(),
            .permutation = remap_.permutation,
            .transform = [self = *this](const at::Tensor& images) { return self.transformed(images); },
            .classify = [self = *this](const at::Tensor& drawn) { return self.classify_transformed(drawn); },
            .undefended = [self = *this](const at::Tensor& images) { return self.undefended(images); }};
  }

  /// Replaces the permutation of the remap, as when a saved defense is loaded.
  /// \param permutation the new name of each class
  /// \throws Error if it is not a permutation of the classes
  void set_permutation(std::vector<std::int64_t> permutation) {
    require_agreement(
        detail::check_parts({}, {{}, backbone_.task.classes}, static_cast<int>(permutation.size())));
    victim_classes_ = victim_classes(permutation);
    remap_.permutation = std::move(permutation);
  }

  /// Moves the networks to a device. Copies share them.
  void to(at::Device device) {
    nn::move_to(*transform_.module, device);
    nn::move_to(*backbone_.module, device);
    device_ = device;
  }

  /// Returns the device of the networks, also after a copy that shares them has moved them.
  /// \throws Error if the two networks are on different devices
  at::Device device() const {
    const auto transform = nn::device_of(*transform_.module), backbone = nn::device_of(*backbone_.module);
    if (transform && backbone && *transform != *backbone) {
      throw Error(
          "Pipeline: the transform is on {}, but the backbone is on {}; one of them is shared and was moved; call "
          "defense.to(device)",
          transform->str(), backbone->str());
    }
    return transform ? *transform : backbone.value_or(device_);
  }

  const T& transform() const { return transform_; }  ///< Returns the transform.
  const B& backbone() const { return backbone_; }    ///< Returns the frozen victim.
  const R& remap() const { return remap_; }          ///< Returns the remap.
  PixelDomain domain() const { return domain_; }     ///< Returns the pixel domain.

 private:
  static void check_images(const at::Tensor& images) {
    if (images.is_floating_point()) return;
    throw Error("Pipeline: the images must be float in [0, 1], got {}; convert them with data::to_float",
                images.defined() ? c10::toString(images.scalar_type()) : "an undefined tensor");
  }

  /// Checks what the backbone returns for images that it is made for.
  void check_backbone(const ImageShape& shape) const {
    if (!shape.is_static()) return;
    const at::Tensor logits = detail::ask_about_blank_images(backbone_, shape, device());
    if (logits.defined()) backbones::check_logits("Pipeline: the backbone", logits, 2, task().classes);
  }

  // apply(logits)[:, permutation[j]] = logits[:, j], as a gather.
  static nn::DeviceCachedTensor victim_classes(const std::vector<std::int64_t>& permutation) {
    return nn::DeviceCachedTensor(at::tensor(remaps::inverse(permutation)));
  }

  T transform_;
  B backbone_;
  R remap_;
  PixelDomain domain_;
  at::Device device_ = at::kCPU;  // of networks without tensors
  nn::DeviceCachedTensor victim_classes_;
};

/// Returns a trained defense in the form for serving: the same answers, except for rounding, in
/// fewer steps.
///
/// Its transform is a frozen copy, or shared if it is frozen already. The victim is shared, since
/// it is frozen already. `export_torchscript` writes this form.
///
/// ```cpp
/// auto serving = freeze(defense);
/// at::Tensor logits = serving.forward(images);
/// ```
///
/// \param defense is left unchanged, and can be trained further
/// \return the pipeline of frozen parts, on the same device
/// \throws c10::Error if the transform is not frozen and its module does not implement `clone`
template <typename T, typename B, typename R>
auto freeze(const Pipeline<T, B, R>& defense) {
  Pipeline serving{freeze(defense.transform()), defense.backbone(), defense.remap(), defense.domain()};
  serving.to(defense.device());  // for networks without tensors
  return serving;
}

/// A pipeline whose parts are chosen at run time: by a command line, or from a file.
///
/// Its members are those of `Pipeline`; `freeze` and `fit` take it as any other.
///
/// `AnyTransform`, `AnyBackbone` and `AnyRemap` hold any policy of their kind. A program that
/// instantiates `fit`, `evaluate` and `export_torchscript` only for this type handles every
/// transform, backbone and remap.
///
/// ```cpp
/// AnyPipeline defense{transforms::UNet<>{.image = image}, freeze(backbones::AnyBackbone{victim}),
///                     remaps::Derangement<>{.classes = 10}};
/// ```
using AnyPipeline =
    Pipeline<transforms::AnyTransform, backbones::Frozen<backbones::AnyBackbone>, remaps::AnyRemap>;

}  // namespace refine
