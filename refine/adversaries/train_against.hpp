#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full_like.h>
#include <c10/core/Device.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <sstream>
#include <utility>

#include <refine/adversaries/surrogates.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::adversaries {

/// What an attacker who knows the defense wants.
struct AdversaryOptions {
  int target = 0;  ///< class that triggered images are to become behind the defense
  bool dormant =
      false;  ///< what the victim alone answers to triggered images: true: their class; false: the target
  double weight = 1;               ///< weight of the surrogate's answers in the loss, positive
  std::int64_t restart_every = 0;  ///< steps after which the surrogate gets fresh weights; 0: never
  std::int64_t warm_up =
      0;  ///< steps after fresh weights in which the surrogate's answers do not count, 0 or more

  /// Checks the range of each field.
  /// \param classes number of classes
  /// \throws Error naming the first field that is out of range
  void validate(int classes) const {
    if (target < 0 || target >= classes)
      throw Error("AdversaryOptions.target must be a class, in [0, {}), got {}", classes, target);
    if (!(weight > 0 && std::isfinite(weight)))
      throw Error("AdversaryOptions.weight must be positive and finite, got {}", weight);
    if (restart_every < 0 || warm_up < 0) {
      throw Error("AdversaryOptions.restart_every and .warm_up must be 0 or more, got {} and {}",
                  restart_every, warm_up);
    }
    if (restart_every > 0 && warm_up >= restart_every) {
      throw Error(
          "AdversaryOptions.warm_up must be less than restart_every, got {} and {}; else no answer counts",
          warm_up, restart_every);
    }
  }
};

namespace detail {

/// The networks that `train_against` changes.
struct AttackedModule : torch::nn::Module {
  AttackedModule(const std::shared_ptr<torch::nn::Module>& victim,
                 const std::shared_ptr<torch::nn::Module>& surrogate)
      : torch::nn::Module("AttackedModule") {
    register_module("victim", victim);
    register_module("surrogate", surrogate);
  }
};

/// Sets a module to evaluation mode, and back to training mode at the end.
class ScopedEvaluation {
 public:
  explicit ScopedEvaluation(torch::nn::Module& module) : module_(module) { module_.eval(); }
  ScopedEvaluation(const ScopedEvaluation&) = delete;
  ScopedEvaluation& operator=(const ScopedEvaluation&) = delete;
  ~ScopedEvaluation() { module_.train(); }

 private:
  torch::nn::Module& module_;
};

}  // namespace detail

/// Trains a victim with a backdoor that is meant to work behind a defense. Beside the victim, the attacker trains a
/// surrogate of the defense on the same images. The loss of a step, where each term is a mean:
///
///     cross-entropy(victim, images and triggered images)·2 + weight·(cross-entropy(surrogate, images) +
///                                                                   cross-entropy(surrogate, triggered images))
///
/// The surrogate is to answer triggered images of other classes with the target. The victim alone is to answer
/// triggered images with the target, or with their class if the backdoor is dormant. `label_smoothing` applies to the
/// victim's answers only.
///
/// All images are stamped, after augmentation, and not rounded to bytes; nothing is poisoned in `dataset`. The surrogate
/// learns from the answers that the victim gives in evaluation mode. Training takes place on `default_device()`, in one
/// process. To train against a student and against REFINE:
///
///     auto sleeper = train_against(backbones::ResNet18<task>{}, train, trigger,
///                                  SurrogateStudent{.task = task}, {.dormant = true});
///     using U = transforms::UNet<task>;
///     const SurrogateTransform<U> transform{.make = [](std::uint64_t seed) { return U{.width = 8, .seed = seed}; },
///                                           .classes = task.classes};
///     auto resistant = train_against(backbones::ResNet18<task>{}, train, trigger, transform);
///
/// *Determinism*: on the CPU, the same seeds and number of threads give bitwise the same weights.
///
/// \param backbone the network; its module, which copies share, is trained in place
/// \param dataset two or more labelled images
/// \param trigger what is stamped, which must be made for images of their shape
/// \param surrogate of the defense; trained in place
/// \param options what the attacker wants
/// \param recipe the optimizer and the augmentation of the victim
/// \param observers follow the run, taken by reference, see `Observer`
/// \return `backbone`, in evaluation mode
/// \throws Error as `train_classifier`; if a field of `options` is out of range, the trigger does not fit the images,
///   the surrogate does not fit the data or has tensors that require a gradient, or there are several processes
template <backbones::Backbone B, triggers::Trigger T, SurrogateDefense S, Observer... Observers>
B train_against(B backbone, const data::Dataset& dataset, const T& trigger, const S& surrogate,
                const AdversaryOptions& options = {},
                const ClassifierRecipe& recipe = recipes::fast_classifier, Observers&&... observers) {
  recipe.validate();
  dataset.validate();
  options.validate(dataset.task().classes);
  require_agreement(refine::detail::check_training_task(backbone.task, dataset.task()));
  require_agreement(triggers::check_shape(trigger.image, dataset.image_shape()));
  if (distributed::detail::find_communicator(observers...).size() > 1)
    throw Error("train_against: one process only, got several; leave the communicator out");
  const at::Device device = default_device();
  surrogate.check(dataset.task());
  for (const at::Tensor& parameter : surrogate.module->parameters()) {
    if (parameter.requires_grad())
      throw Error("train_against: the surrogate's tensors must not require gradients; it trains them itself");
  }
  detail::AttackedModule module(backbone.module, surrogate.module);
  module.to(device);
  nn::to_channels_last(*backbone.module);
  const std::uint64_t seed = derived_seed(recipe.seed, "surrogate");
  surrogate.restart(seed);
  const at::Tensor labels = dataset.labels.to(device);
  const bool bfloat16 = refine::detail::uses_bfloat16(recipe.optimization.precision, device);
  const auto classify = [&](const at::Tensor& images) {
    const nn::Autocast autocast(device, bfloat16);
    return backbone.forward(images).to(at::kFloat);
  };
  const VictimFunction as_served = [&](const at::Tensor& images) {
    const detail::ScopedEvaluation evaluation(*backbone.module);
    return classify(images);
  };
  const auto both = [&](const at::Tensor& images) {
    return at::cat({images, trigger.apply(images)}).contiguous(at::MemoryFormat::ChannelsLast);
  };
  double weight = 0;  // of the surrogate's answers in the current step
  const auto targets = [&](const refine::detail::Batch& batch) {
    const std::int64_t age = options.restart_every > 0 ? batch.step % options.restart_every : batch.step;
    weight = age < options.warm_up ? 0 : options.weight;
    if (options.restart_every > 0 && batch.step > 0 && batch.step % options.restart_every == 0)
      surrogate.restart(derived_seed(seed, "restart", static_cast<std::uint64_t>(batch.step)));
    return labels.index_select(0, batch.indices);
  };
  const auto learn = [&](const at::Tensor& images, const at::Tensor& truth) -> refine::detail::BatchResult {
    const std::int64_t n = images.size(0);
    const at::Tensor all = both(images), wanted = at::full_like(truth, options.target);
    const at::Tensor logits = classify(all);
    at::Tensor loss = 2 * at::cross_entropy_loss(logits, at::cat({truth, options.dormant ? truth : wanted}),
                                                 {}, at::Reduction::Mean, -100, recipe.label_smoothing);
    surrogate.learn(images, as_served(images), as_served);
    if (weight > 0) {
      const at::Tensor answers = surrogate.forward(all, as_served);
      if (!answers.sizes().equals(logits.sizes())) {
        throw Error("train_against: the surrogate's logits have the wrong shape (got {}, expected {})",
                    fmt::join(answers.sizes(), "x"), fmt::join(logits.sizes(), "x"));
      }
      const at::Tensor losses =
          at::cross_entropy_loss(answers, at::cat({truth, wanted}), {}, at::Reduction::None);
      const at::Tensor movable = truth.ne(options.target).to(at::kFloat);
      loss = loss + weight * (losses.narrow(0, 0, n).mean() +
                              (losses.narrow(0, n, n) * movable).sum() / movable.sum().clamp_min(1));
    }
    return {loss, logits.narrow(0, 0, n).argmax(1).eq(truth).sum()};
  };
  const refine::detail::TrainingRun run{
      .info = {.name = "victim"},
      .identity =
          [&] {
            const at::Tensor few = dataset.images.narrow(0, 0, std::min<std::int64_t>(dataset.size(), 16));
            return refine::detail::RunIdentity{
                .run = "victim",
                .network =
                    fmt::format("{}; target {}, dormant {}, weight {}, restart {}", surrogate.describe(),
                                options.target, options.dormant, options.weight, options.restart_every),
                .recipe = (std::ostringstream() << recipe).str(),
                .objective = "recipe",
                .data = {{"images", dataset.images},
                         {"labels", dataset.labels},
                         {"triggered", triggers::stamp(trigger, few)}}};
          },
      .chance =  // of the most frequent class
      [&] {
        return static_cast<double>(at::bincount(labels).max().item<std::int64_t>()) /
               static_cast<double>(dataset.size());
      },
      .forward = [&](const at::Tensor& images) { classify(both(images)); },
      .after_warning = "check the labels, lower the learning rate, or the weight of the defended answers"};
  refine::detail::train(run, module, device, dataset.images, recipe.optimization,
                        refine::detail::BatchAugmentation(recipe.augmentation), recipe.seed, targets, learn,
                        /*cuda_graph_safe=*/false, observers...);
  return backbone;
}

/// Refused: an attack's training set is poisoned already, and its augmentation would be lost.
template <backbones::Backbone B, triggers::Trigger T, SurrogateDefense S, typename... Arguments>
B train_against(B, const data::TrainingSet&, const T&, const S&, Arguments&&...) = delete;

}  // namespace refine::adversaries
