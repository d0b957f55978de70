#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/module.hpp>

namespace refine::backbones {

namespace detail {

template <typename B>
concept NamedConstantsFit = !REFINE_DECLARES(B, named_constants, named_constants()) || requires(const B& b) {
  b.named_constants();
};

template <typename B>
concept FeaturesFit = !REFINE_DECLARES(B, features, features(std::declval<const at::Tensor&>())) ||
                      requires(const B& b, const at::Tensor& images) {
  b.features(images);
};

}  // namespace detail

/// A classifier. For `b` of type `B`:
///
///  1. `b.task` is its `Task`: a constant, or a member if an extent is dynamic;
///  2. `b.forward(images)` takes float N×C×H×W in [0, 1] and returns logits N×classes;
///  3. `b.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds its state: never null, but a
///     `torch::nn::Module` without tensors if there is none. `freeze` and `deep_copy` require that its type
///     implements `clone` (`nn::CanClone`), as a `torch::nn::Cloneable` does, and that its layers and
///     tensors are registered;
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
concept Backbone = std::copyable<B> && refine::detail::PolicyMembersFit<B> && detail::NamedConstantsFit<B> &&
    detail::FeaturesFit<B> && requires(const B& b, const at::Tensor& images) {
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

/// Checks the members of a backbone.
/// \throws Error if its module is null
template <Backbone B>
void check_members(const B& backbone) {
  if (!backbone.module) {
    throw Error(
        "backbone.module must not be null; make a torch::nn::Module, without tensors if there are none");
  }
}

/// Checks what a classifier returns for a batch, and returns it.
/// \param function what returned the logits, for the message
/// \param images N
/// \param classes of its task; `dynamic` fits any
/// \throws Error unless the logits are N×classes: other shapes would be broadcast, or taken for other images
inline at::Tensor check_logits(std::string_view function, at::Tensor logits, std::int64_t images,
                               int classes = dynamic) {
  if (logits.defined() && logits.dim() == 2 && logits.size(0) == images && logits.size(1) > 0 &&
      (classes == dynamic || logits.size(1) == classes)) {
    return logits;
  }
  throw Error("{} must return logits N×classes of its task (got {}, expected {}×{})", function,
              nn::sizes_text(logits), images, classes == dynamic ? "classes" : std::to_string(classes));
}

/// Returns `backbone.named_constants()`, or an empty map if it has no such member.
template <Backbone B>
std::map<std::string, at::Tensor> constants_of(const B& backbone) {
  if constexpr (requires { backbone.named_constants(); }) {
    return backbone.named_constants();
  } else {
    return {};
  }
}

/// Receives the output of a stage of a network, float N×C×H×W, and returns what the network goes on with.
/// \param stage its number, from 0
using StageFunction = std::function<at::Tensor(int stage, const at::Tensor& output)>;

/// A network in stages, whose outputs can be read and replaced (`forward_stages`). A second base class of its
/// module, or of a module below it, whose `forward` passes the output of each stage through `after_stage`.
class Staged {
 public:
  virtual ~Staged() = default;

  /// Returns the number of stages, at least 1.
  virtual int stages() const = 0;

  /// Passes outputs of a network to a function, in this thread, during the life of the object.
  class Listener {
   public:
    /// \param network must outlive the listener
    /// \param function likewise
    Listener(const Staged& network, const StageFunction& function)
        : previous_(std::exchange(current(), {&network, &function})) {}
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;
    ~Listener() { current() = previous_; }

   private:
    friend class Staged;

    struct Entry {
      const Staged* network = nullptr;
      const StageFunction* function = nullptr;
    };

    /// No network during the life of the object: the function may call the same network.
    struct Pause {
      Entry entry = std::exchange(current(), {});
      ~Pause() { current() = entry; }
    };

    static Entry& current() {
      thread_local Entry entry;
      return entry;
    }

    Entry previous_;
  };

 protected:
  /// Returns what the network goes on with after a stage.
  at::Tensor after_stage(int stage, at::Tensor output) const {
    if (Listener::current().network != this) return output;
    const Listener::Pause paused;
    return (*paused.entry.function)(stage, output);
  }
};

namespace detail {

/// Finds the part of a network that has stages, behind any wrapper; null if there is none.
inline const Staged* find_staged(const torch::nn::Module& module) {
  if (const auto* staged = dynamic_cast<const Staged*>(&module)) return staged;
  for (const auto& part : module.modules(/*include_self=*/false)) {
    if (const auto* staged = dynamic_cast<const Staged*>(part.get())) return staged;
  }
  return nullptr;
}

}  // namespace detail

/// Returns how many stages a network has whose outputs can be read; 0 if it is not `Staged`.
template <Backbone B>
int stages_of(const B& backbone) {
  const auto* staged = detail::find_staged(*backbone.module);
  return staged ? staged->stages() : 0;
}

/// Returns the logits N×classes of a network, and passes the outputs of its stages through a function. ResNets and
/// DenseNet-121 have four stages, VGGs five, Inception-v3 three.
///
///     std::vector<at::Tensor> outputs;
///     forward_stages(victim, images, [&](int, const at::Tensor& output) { return outputs.emplace_back(output); });
///
/// \param images float N×C×H×W in [0, 1]
/// \param after receives each stage's output, in order, and returns a tensor of the same shape
/// \throws Error if the network is not `Staged`
template <Backbone B>
at::Tensor forward_stages(const B& backbone, const at::Tensor& images, const StageFunction& after) {
  const Staged* const staged = detail::find_staged(*backbone.module);
  if (!staged) {
    throw Error(
        "forward_stages: the network has no stages that can be read; use a ResNet, VGG, DenseNet-121 or Inception-v3, "
        "or derive its module from backbones::Staged");
  }
  const Staged::Listener listener(*staged, after);
  return backbone.forward(images);
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
