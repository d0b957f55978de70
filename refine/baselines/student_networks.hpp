#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>

#include <concepts>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include <refine/backbones/backbone.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/transforms/encoded.hpp>

/// \file
/// Networks for students (`distill`): one that works at a small size, and one on a trusted encoder.

namespace refine::baselines {

/// A classifier that sees images smaller, or larger, than the task's: they are resized before it, with
/// a filter against aliasing where they shrink. A student need not see 224 pixels.
///
///     const baselines::ResizedClassifier<backbones::ResNet18<>> student{
///         .task = {{3, 224, 224}, 10}, .inner = {.task = {{3, 64, 64}, 10}, .width = 16}};
template <backbones::Backbone B>
struct ResizedClassifier {
  Task task = {};  ///< images of any height and width, and the classes of `inner`
  B inner;         ///< its image shape, which must be known, is what it sees
  bool cuda_graph_safe = nn::is_replayable(inner);  ///< whether the inner network is
  decltype(B::module) module = inner.module;        ///< that of the inner network

  /// Checks that the inner network fits the task.
  /// \throws Error if it does not
  void check() const {
    const Task sees = inner.task;
    Message why;
    if (!sees.image.is_static()) {
      why << "ResizedClassifier: the image shape of the inner network must be known, got " << sees.image;
    } else if (sees.classes != task.classes || !compatible(sees.image.channels, task.image.channels)) {
      why << "ResizedClassifier: the inner network has " << sees.image << " images and " << sees.classes
          << " classes, but the task " << task.image << " and " << task.classes << "; give both the same";
    }
    require_agreement(why);
  }

  /// Returns the size of the images that the inner network sees.
  std::string describe() const { return fmt::format("sees {}", Task(inner.task).image); }

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const {
    return inner.forward(nn::resize(images, Task(inner.task).image));
  }

  /// Returns the tensors that the module does not hold, by name, on the CPU.
  std::map<std::string, at::Tensor> named_constants() const { return backbones::constants_of(inner); }

  /// Returns the same classifier around another module of the same type.
  ResizedClassifier with_module(decltype(B::module) other) const {
    ResizedClassifier copy = *this;
    copy.inner = nn::with_module(inner, std::move(other));
    copy.module = copy.inner.module;
    return copy;
  }
};

namespace detail {

/// Classifies features, standardized, by two fully connected layers.
class FeatureHead : public torch::nn::Cloneable<FeatureHead> {
 public:
  FeatureHead(std::int64_t features, std::int64_t width, std::int64_t classes)
      : features_(features), width_(width), classes_(classes) {
    reset();
  }

  void reset() override {
    mean_ = register_buffer("mean", at::zeros({features_}));
    deviation_ = register_buffer("deviation", at::ones({features_}));
    hidden_ = register_module("hidden", torch::nn::Linear(features_, width_));
    last_ = register_module("last", torch::nn::Linear(width_, classes_));
  }

  /// Returns logits N×classes.
  at::Tensor forward(const at::Tensor& features) {
    return last_->forward(hidden_->forward((features - mean_) / deviation_).relu());
  }

  /// Stores mean and deviation of each feature.
  /// \throws Error if there are fewer than two rows, or they have another length
  void standardize(const at::Tensor& features) {
    const c10::NoGradGuard no_grad;
    if (features.dim() != 2 || features.size(1) != features_ || features.size(0) < 2)
      throw Error("EncodedClassifier: standardize needs the features of two or more images, N×{}", features_);
    constexpr double smallest = 1e-5;  // a feature that does not vary
    mean_.copy_(features.mean(0));
    deviation_.copy_(features.std(0).clamp_min(smallest));
  }

 private:
  std::int64_t features_, width_, classes_;
  at::Tensor mean_, deviation_;
  torch::nn::Linear hidden_{nullptr}, last_{nullptr};
};

}  // namespace detail

/// A classifier on the features of a trusted encoder, which is not trained; a small head is. `distill`
/// computes the features of each image once, so that an epoch costs the head alone.
///
/// A backdoor of the victim is not in the encoder. An encoder that has the same backdoor passes it on:
/// take it from where nobody could tamper with it.
///
///     const transforms::ProgramEncoder encoder{"encoder.pt", {.image = {3, 224, 224}}};
///     auto student = baselines::distill(baselines::EncodedClassifier{.task = victim.task, .encoder = encoder}, victim,
///                                       images, recipes::encoded);
template <transforms::Encoder E>
struct EncodedClassifier {
  static constexpr int max_width = 1 << 16;  ///< largest `width`

  Task task = {};                     ///< images, which are resized to what the encoder sees, and classes
  E encoder;                          ///< turns images into features
  int width = 256;                    ///< numbers between the two layers of the head, 1 to `max_width`
  std::uint64_t seed = default_seed;  ///< of the initial weights
  /// Holds encoder and head. Made from the members above.
  std::shared_ptr<transforms::detail::EncodedModule> module = make(task, encoder, width, seed);

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return classify(encode(images)); }

  /// Checks that the parts fit each other. Not done when it is made: GCC 12 destroys `encoder` twice if an
  /// initializer after it throws.
  /// \throws Error if they do not
  void check() const {
    Message why;
    if (!fits(task, encoder, width)) {
      why << "EncodedClassifier: width must be from 1 to " << max_width
          << ", and classes and features known (got " << width << ", " << task.classes << " and "
          << encoder.features << ")";
    } else if (!compatible(task.image.channels, encoder.image.channels)) {
      why << "EncodedClassifier: the encoder sees " << encoder.image << " images, but the task has "
          << task.image << "; use an encoder of as many channels";
    }
    require_agreement(why);
  }

  /// Returns features, float N×F.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor encode(const at::Tensor& images) const {
    check();
    return encoder.forward(nn::resize(images, encoder.image));
  }

  /// Returns logits N×classes.
  /// \param features float N×F
  at::Tensor classify(const at::Tensor& features) const { return head().forward(features); }

  /// Adapts the head to the features of the training images.
  /// \param features float N×F
  /// \throws Error if there are fewer than two images
  void standardize(const at::Tensor& features) const { head().standardize(features); }

 private:
  detail::FeatureHead& head() const { return static_cast<detail::FeatureHead&>(*module->decoder()); }

  static bool fits(const Task& task, const E& encoder, int width) {
    return width >= 1 && width <= max_width && task.classes >= 1 && encoder.features >= 1;
  }

  // With sizes that `check` refuses, a head of size 1, since this must not throw.
  static std::shared_ptr<transforms::detail::EncodedModule> make(const Task& task, const E& encoder,
                                                                 int width, std::uint64_t seed) {
    const bool is_valid = fits(task, encoder, width);
    return std::make_shared<transforms::detail::EncodedModule>(
        encoder.module, nn::with_torch_seed(seed, [&] {
          return std::make_shared<detail::FeatureHead>(is_valid ? encoder.features : 1, is_valid ? width : 1,
                                                       is_valid ? task.classes : 1);
        }));
  }
};

/// A backbone whose first part is constant: `distill` computes the features of each image once. For `b`
/// of type `B`, in addition to `Backbone`:
///
///  1. `b.encode(images)` takes float N×C×H×W in [0, 1] and returns float N×F features;
///  2. `b.classify(features)` returns logits; `b.forward(x)` equals `b.classify(b.encode(x))`;
///  3. `b.standardize(features)` adapts the second part to the features of the training images.
///     `distill` calls it once, before it trains;
///  4. `b.module` is an `EncodedModule`, whose decoder is what is trained.
template <typename B>
concept EncodingBackbone = backbones::Backbone<B> && requires(const B& b, const at::Tensor& x) {
  { b.encode(x) } -> std::same_as<at::Tensor>;
  { b.classify(x) } -> std::same_as<at::Tensor>;
  b.standardize(x);
  { b.module } -> std::convertible_to<std::shared_ptr<transforms::detail::EncodedModule>>;
};

namespace detail {

/// Returns the encoder of a student's module; null if it has none.
inline std::shared_ptr<torch::nn::Module> encoder_of(const std::shared_ptr<torch::nn::Module>& module) {
  const auto encoded = std::dynamic_pointer_cast<transforms::detail::EncodedModule>(module);
  return encoded ? encoded->encoder() : nullptr;
}

/// Returns the part of a student's module that is trained and saved.
inline std::shared_ptr<torch::nn::Module> trained_part_of(const std::shared_ptr<torch::nn::Module>& module) {
  const auto encoded = std::dynamic_pointer_cast<transforms::detail::EncodedModule>(module);
  return encoded ? encoded->decoder() : module;
}

}  // namespace detail

}  // namespace refine::baselines
