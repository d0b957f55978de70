#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full_like.h>
#include <c10/core/Device.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <refine/adversaries/detail/surrogates.hpp>
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
#include <refine/nn/torch_random.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/remaps/remap.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/optimization.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/transform.hpp>
#include <refine/triggers/trigger.hpp>

/// \namespace refine::adversaries
/// Attackers who know the defense: they train the victim themselves, beside a surrogate of the defense that its
/// user will train.
///
/// ```cpp
/// using namespace refine;
/// const auto student = adversaries::SurrogateStudent{.task = task};
/// auto victim = adversaries::train_against(backbones::ResNet18<task>{}, train, trigger, student, {.dormant = true});
/// ```

namespace refine::adversaries {

/// A victim: float images N×C×H×W in [0, 1] → logits N×classes.
using VictimFunction = std::function<at::Tensor(const at::Tensor&)>;

/// A surrogate of a defense, trained beside a victim by `train_against`. For `s` of type `S`:
///
///  1. `s.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds all that its training changes, as
///     registered tensors that require no gradient. Copies share it;
///  2. `s.check(task)` throws `Error` if it does not fit a victim of this task;
///  3. `s.restart(seed)` resets it to fresh weights;
///  4. `s.learn(images, answers, victim)` trains it a little on N clean images, and not the victim. `answers` are the
///     victim's logits in evaluation mode, with gradient;
///  5. `s.forward(images, victim)` returns its logits, N×classes, with a gradient for the victim: through `victim`, or
///     through the `answers` of the last call of `learn`, which comes before;
///  6. `s.describe()` returns its settings in one line: a run is resumed only if they are the same.
///
/// `victim` must not be kept after the call.
template <typename S>
concept SurrogateDefense = std::copyable<S> &&
    requires(const S& s, const Task& task, const at::Tensor& images, const VictimFunction& victim,
             std::uint64_t seed) {
  { s.module } -> std::convertible_to<std::shared_ptr<torch::nn::Module>>;
  s.check(task);
  s.restart(seed);
  s.learn(images, images, victim);
  { s.forward(images, victim) } -> std::same_as<at::Tensor>;
  { s.describe() } -> std::convertible_to<std::string>;
};

/// A student that will be distilled from the victim (`baselines::distill`): four convolutions with BatchNorm and a
/// fully connected layer. Its last steps of gradient descent are differentiated (Maclaurin et al., 2015,
/// `maclaurin2015gradient`), so the victim learns which answers to clean images teach a student to obey the trigger.
/// With `AdversaryOptions::dormant`, this attack is similar to SCAR (Chen et al., 2025, `chen2025scar`), by unrolled
/// steps instead of implicit differentiation, and with a given trigger.
struct SurrogateStudent {
  Task task = {};   ///< of the victim; channels and classes must be known
  int width = 16;   ///< channels of the first convolution, at least 1; four times as many in the last
  int steps = 2;    ///< steps of a batch that are differentiated, each on its part of the images, at least 1
  double lr = 0.1;  ///< of these steps, positive
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::UnrolledStudent> module = make(task, width, steps, lr);

  /// \throws Error if it is made for images or classes of another task
  void check(const Task& data) const { detail::require_task("SurrogateStudent", task, data); }

  /// Draws new weights.
  void restart(std::uint64_t seed) const { module->restart(seed); }

  /// Takes `steps` steps towards the victim's answers, each on its part of the images; fewer if a part would have less
  /// than two.
  /// \param images float N×C×H×W in [0, 1], N at least 2
  /// \param answers float N×classes, with gradient
  void learn(const at::Tensor& images, const at::Tensor& answers, const VictimFunction&) const {
    const auto most = static_cast<int>(std::min<std::int64_t>(images.size(0) / 2, steps));
    if (most < 1)
      throw Error("SurrogateStudent: too few images (got {}, expected 2 or more)", images.size(0));
    module->learn(images, answers, most, lr);
  }

  /// Returns the student's logits after the last steps.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images, const VictimFunction&) const {
    return module->forward(images);
  }

  /// Returns the settings in one line.
  std::string describe() const {
    return fmt::format("SurrogateStudent, width {}, {} steps, lr {}", width, steps, lr);
  }

 private:
  static std::shared_ptr<detail::UnrolledStudent> make(const Task& task, int width, int steps, double lr) {
    if (task.image.channels < 1 || task.classes < 1)
      throw Error("SurrogateStudent: channels and classes must be known; set .task to that of the data");
    if (width < 1 || steps < 1 || !(lr > 0 && std::isfinite(lr))) {
      throw Error(
          "SurrogateStudent: width and steps must be at least 1 and lr positive and finite (got {}, {}, {})",
          width, steps, lr);
    }
    return std::make_shared<detail::UnrolledStudent>(task, width);
  }
};

/// A transform that REFINE will train in front of the victim (`fit`), trained in turns with the victim, with a
/// permutation of the classes behind them. Its steps are not differentiated: the victim learns to recognise triggered
/// images as this transform, which follows it, rewrites them.
/// \tparam T type of the transform, without an encoder
template <transforms::Transform T>
requires(!transforms::EncodingTransform<T>) struct SurrogateTransform {
  /// Returns an untrained transform with weights of a seed, a new one in each call.
  std::function<T(std::uint64_t seed)> make = {};
  int classes = 0;  ///< number of classes, at least 2
  /// Of the defense, where the attacker knows it: the victim's class j is class `permutation[j]` behind the remap.
  /// Empty: a random derangement, drawn at each restart.
  std::vector<std::int64_t> permutation = {};
  /// The optimizer and its rates, which are constant; batch size, epochs, schedule and precision have no effect.
  Optimization optimization = recipes::fast.optimization;
  T transform = untrained(make, default_seed);  ///< which is trained
  /// Holds the weights, the optimizer's state and the permutation. Made from the members above.
  std::shared_ptr<detail::TrainedTransform> module =
      make_module(transform, optimization, inverse_of(permutation, classes, default_seed));

  /// \throws Error if it is made for images or classes of another task
  void check(const Task& data) const {
    detail::require_task("SurrogateTransform", {transform.image, classes}, data);
  }

  /// Resets the transform to weights of a seed, and draws a permutation if the attacker does not know it.
  void restart(std::uint64_t seed) const {
    module->restart(*untrained(make, seed).module, inverse_of(permutation, classes, seed));
  }

  /// Takes a step towards the victim's answers.
  /// \param images float N×C×H×W in [0, 1]
  /// \param answers float N×classes
  void learn(const at::Tensor& images, const at::Tensor& answers, const VictimFunction& victim) const {
    module->step([&] { return objectives::Distillation{}(forward(images, victim), answers.detach()); });
  }

  /// Returns the logits of the victim behind the transform, under the names of the permutation.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images, const VictimFunction& victim) const {
    return module->remap(victim(transform.forward(images)));
  }

  /// Returns the settings in one line.
  std::string describe() const {
    return fmt::format("SurrogateTransform of {}, permutation {}, {}", nn::describe(transform),
                       permutation.empty() ? "unknown" : fmt::format("{}", fmt::join(permutation, " ")),
                       (std::ostringstream() << Recipe{.optimization = optimization}).str());
  }

 private:
  static T untrained(const std::function<T(std::uint64_t seed)>& make, std::uint64_t seed) {
    if (!make)
      throw Error(
          "SurrogateTransform: .make is empty; set it to a function that returns an untrained transform");
    T transform = nn::with_torch_seed(seed, [&] { return make(seed); });
    transforms::check_members(transform);
    transform.module->to(default_device());
    nn::to_channels_last(*transform.module);
    return transform;
  }

  static std::shared_ptr<detail::TrainedTransform> make_module(const T& transform,
                                                               const Optimization& optimization,
                                                               const std::vector<std::int64_t>& inverse) {
    optimization.validate();
    return std::make_shared<detail::TrainedTransform>(transform.module, optimization, inverse);
  }

  static std::vector<std::int64_t> inverse_of(const std::vector<std::int64_t>& permutation, int classes,
                                              std::uint64_t seed) {
    if (permutation.empty()) return remaps::inverse(remaps::random_derangement(classes, seed));
    if (static_cast<int>(permutation.size()) != classes) {
      throw Error("SurrogateTransform: permutation must have a class for each of {}, got {}", classes,
                  permutation.size());
    }
    return remaps::inverse(permutation);
  }
};

/// What an attacker who knows the defense wants.
struct AdversaryOptions {
  int target = 0;  ///< class that triggered images are to become behind the defense
  /// What the victim alone answers to triggered images: true: their class; false: the target.
  bool dormant = false;
  double weight = 1;               ///< weight of the surrogate's answers in the loss, positive
  std::int64_t restart_every = 0;  ///< steps after which the surrogate gets fresh weights; 0: never
  /// Steps after fresh weights in which the surrogate's answers do not count, 0 or more.
  std::int64_t warm_up = 0;

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
  refine::detail::refuse_inference_mode("train_against");
  recipe.validate();
  dataset.validate();
  options.validate(dataset.task().classes);
  require_agreement(refine::detail::check_training_task("train_against", backbone.task, dataset.task()));
  require_agreement(triggers::check_shape(trigger.image, dataset.image_shape()));
  distributed::detail::require_one_process("train_against", observers...);
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
                .run = "victim against a defense",
                .network = fmt::format("{}; target {}, dormant {}, weight {}, restart {}, warm-up {}",
                                       surrogate.describe(), options.target, options.dormant, options.weight,
                                       options.restart_every, options.warm_up),
                .constants = backbones::constants_of(backbone),
                .recipe = (std::ostringstream() << recipe).str(),
                .objective = "recipe",
                .data = {{"images", dataset.images},
                         {"labels", dataset.labels},
                         {"triggered", triggers::stamp(trigger, few)}}};
          },
      .chance = [&] { return refine::detail::share_of_mode(labels); },
      .forward = [&](const at::Tensor& images) { classify(both(images)); },
      .after_warning = "check the labels, lower the learning rate, or the weight of the surrogate's answers"};
  refine::detail::train(run, module, device, dataset.images, recipe.optimization,
                        refine::detail::BatchAugmentation(recipe.augmentation), recipe.seed, targets, learn,
                        /*cuda_graph_safe=*/false, observers...);
  return backbone;
}

/// Refused: an attack's training set is poisoned already, and its augmentation would be lost.
template <backbones::Backbone B, triggers::Trigger T, SurrogateDefense S, typename... Arguments>
B train_against(B, const data::TrainingSet&, const T&, const S&, Arguments&&...) = delete;

}  // namespace refine::adversaries
