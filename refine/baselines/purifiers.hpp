#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Device.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <refine/backbones/backbone.hpp>
#include <refine/baselines/substitutes.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/transform.hpp>

/// \file
/// Defenses that leave the victim unchanged and train a purifier on clean, labelled images: of its activations
/// (`polarize`), or of the images that it sees (`train_purifier`).

namespace refine::baselines {

namespace detail {

/// A 1×1 convolution with bias, the identity at first.
class PolarizerModule : public torch::nn::Cloneable<PolarizerModule> {
 public:
  explicit PolarizerModule(std::int64_t channels) : channels_(channels) { reset(); }

  void reset() override {
    convolution_ = register_module(
        "convolution", torch::nn::Conv2d(torch::nn::Conv2dOptions(channels_, channels_, /*kernel_size=*/1)));
    const c10::NoGradGuard no_grad;
    convolution_->weight.copy_(at::eye(channels_).view({channels_, channels_, 1, 1}));
    convolution_->bias.zero_();
  }

  at::Tensor forward(const at::Tensor& activations) { return convolution_->forward(activations); }

 private:
  std::int64_t channels_;
  torch::nn::Conv2d convolution_{nullptr};
};

/// A victim and a layer, as one module.
class PolarizedModule : public torch::nn::Module {
 public:
  PolarizedModule(const std::shared_ptr<torch::nn::Module>& victim, std::int64_t channels) {
    register_module("victim", victim);
    layer = register_module(
        "layer", nn::with_torch_seed(0, [&] { return std::make_shared<PolarizerModule>(channels); }));
  }

  std::shared_ptr<PolarizerModule> layer;
};

/// Returns the position of a stage.
/// \param option names it, for the message
/// \param stage from 0, or from -1 for the last
/// \throws Error if the network has no such stage
template <backbones::Backbone B>
int checked_stage(std::string_view option, const B& backbone, int stage) {
  const int stages = backbones::stages_of(backbone), position = stage < 0 ? stages + stage : stage;
  if (position < 0 || position >= stages) {
    throw Error(
        "{}: the network has no such stage (got {}, it has {} that can be read); see backbones::Staged",
        option, stage, stages);
  }
  return position;
}

}  // namespace detail

/// A victim with a layer behind one of its stages that removes what a trigger adds to its activations. A
/// `FrozenBackbone`; copies share the victim and the layer.
/// \tparam V the victim, with stages (`backbones::Staged`)
template <backbones::FrozenBackbone V>
struct Polarized {
  static constexpr bool frozen = true;  ///< marks a `FrozenBackbone`

  V victim;                                         ///< left unchanged
  int stage = 0;                                    ///< behind which the layer is, from 0
  std::shared_ptr<detail::PolarizedModule> module;  ///< holds the victim's module and the layer
  Task task = victim.task;                          ///< the victim's

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const {
    return backbones::forward_stages(victim, images, [this](int number, const at::Tensor& output) {
      return number == stage ? module->layer->forward(output) : output;
    });
  }

  /// Returns the victim's tensors that no module holds, by name, on the CPU.
  std::map<std::string, at::Tensor> named_constants() const { return backbones::constants_of(victim); }

  /// Returns where the layer is, and what the victim's weights do not show, in one line.
  std::string describe() const {
    return fmt::format("polarized behind stage {} {}", stage, nn::describe(victim));
  }
};

/// The default recipe of `polarize`.
inline constexpr ClassifierRecipe polarizing = {
    .optimization = {.lr = 0.01, .momentum = 0.9, .weight_decay = 5e-4, .batch_size = 128, .epochs = 50}};

/// Options of `polarize`.
struct PolarizerOptions {
  int stage = -1;                        ///< behind which the layer is, from 0, or from -1 for the last
  double weight = 0.4;                   ///< of each loss of attacked images, 0 or more
  double radius = 3;                     ///< largest L2 norm of an attack on an image in [0, 1], positive
  double step = 0.1;                     ///< of a value in one step of an attack, in (0, 1]
  int steps = 2;                         ///< of an attack, at least 1
  ClassifierRecipe recipe = polarizing;  ///< how the layer is trained

  /// \throws Error naming the first field that is out of range
  void validate() const {
    if (!(weight >= 0 && std::isfinite(weight)))
      throw Error("PolarizerOptions.weight must be 0 or more and finite, got {}", weight);
    if (!(radius > 0 && std::isfinite(radius)))
      throw Error("PolarizerOptions.radius must be positive and finite, got {}", radius);
    if (!(step > 0 && step <= 1)) throw Error("PolarizerOptions.step must be in (0, 1], got {}", step);
    if (steps < 1) throw Error("PolarizerOptions.steps must be at least 1, got {}", steps);
    recipe.validate();
  }

  /// Returns the settings in one line, without the recipe.
  std::string describe() const {
    return fmt::format("stage {}, weight {}, radius {}, {} steps of {}", stage, weight, radius, steps, step);
  }
};

namespace detail {

/// Returns images changed by gradient steps towards classes, each within a ball.
/// \param targets int64 N
template <backbones::Backbone B>
at::Tensor attack_towards(const B& network, const at::Tensor& images, const at::Tensor& targets,
                          const PolarizerOptions& options) {
  const c10::AutoGradMode with_gradient(true);
  at::Tensor attacked = images;
  for (int i = 0; i < options.steps; ++i) {
    const at::Tensor input = attacked.detach().requires_grad_(true);
    const at::Tensor loss =
        at::cross_entropy_loss(network.forward(input).to(at::kFloat), targets, {}, at::Reduction::Sum);
    const at::Tensor gradient = torch::autograd::grad({loss}, {input})[0];
    at::Tensor change = input.detach() - options.step * gradient.sign() - images;
    const at::Tensor length = change.flatten(1).norm(2, 1).clamp_min(1e-12);
    change = change * (options.radius / length).clamp_max(1).view({-1, 1, 1, 1});
    attacked = (images + change).clamp(0, 1);
  }
  return attacked.detach();
}

/// Returns the most likely wrong class of each image.
inline at::Tensor likeliest_wrong(const at::Tensor& logits, const at::Tensor& truth) {
  return logits.scatter(1, truth.unsqueeze(1), -INFINITY).argmax(1);
}

}  // namespace detail

/// Returns the victim with a trained layer between two stages (neural polarizer; Zhu et al., 2023, `zhu2023polarizer`).
/// The layer is to leave the answers to clean images, and to resist small changes towards the most likely wrong class,
/// which stands for the unknown target. In the paper, a BatchNorm with constant statistics follows the 1×1 convolution;
/// here, the convolution has a bias. The loss is the cross-entropy of clean images plus, of attacked images x',
/// `weight`·(cross-entropy with the clean answer − log(1 − p(x', target)) − log(1 − max p(x', wrong))).
///
/// \param victim frozen, with stages (`backbones::Staged`); it is left unchanged
/// \param labelled two or more images with labels that can be trusted
/// \param options the layer's place, the attack, and the training
/// \param observers follow the training, taken by reference, see `Observer`
/// \throws Error as `train_classifier`, or if an option is out of range
template <backbones::FrozenBackbone V, Observer... Observers>
Polarized<V> polarize(const V& victim, const data::Dataset& labelled, const PolarizerOptions& options = {},
                      Observers&&... observers) {
  options.validate();
  labelled.validate();
  require_agreement(refine::detail::check_training_task("polarize", victim.task, labelled.task()));
  const int stage = detail::checked_stage("PolarizerOptions.stage", victim, options.stage);
  const at::Device device = default_device();
  victim.module->to(device);
  std::int64_t channels = 0;
  {
    const c10::NoGradGuard no_grad;
    const at::Tensor blank = at::zeros(labelled.images.sizes().slice(1), at::TensorOptions(device));
    backbones::forward_stages(victim, blank.unsqueeze(0), [&](int number, const at::Tensor& output) {
      if (number == stage) channels = output.size(1);
      return output;
    });
  }
  const Polarized<V> network{.victim = victim,
                             .stage = stage,
                             .module = std::make_shared<detail::PolarizedModule>(victim.module, channels)};
  network.module->to(device);
  refine::detail::train_labelled(
      {.identity = {.run = "polarizer",
                    .network = options.describe(),
                    .victim = refine::detail::teacher_state(victim)}},
      *network.module->layer, data::TrainingSet{labelled}, options.recipe,
      [&](const at::Tensor& images) { return network.forward(images); },
      [&](const at::Tensor& logits, const at::Tensor& truth, const at::Tensor& images) {
        const at::Tensor targets = detail::likeliest_wrong(logits.detach(), truth);
        const at::Tensor attacked = detail::attack_towards(network, images, targets, options);
        const at::Tensor answers = network.forward(attacked).to(at::kFloat), shares = answers.softmax(1);
        const auto avoid = [](const at::Tensor& share) { return -at::log(1 + 1e-4 - share).mean(); };
        const at::Tensor wrong = shares.scatter(1, truth.unsqueeze(1), 0).amax(1);
        return refine::detail::cross_entropy(logits, truth, options.recipe) +
               options.weight * (at::cross_entropy_loss(answers, logits.detach().argmax(1)) +
                                 avoid(shares.gather(1, targets.unsqueeze(1))) + avoid(wrong));
      },
      observers...);
  for (at::Tensor& parameter : network.module->layer->parameters()) parameter.set_requires_grad(false);
  return network;
}

/// Options of `train_purifier`. Epochs are of the labelled images. The defaults are the authors'.
struct InversionOptions {
  int rounds = 5;             ///< of mask, generator and purifier, at least 1
  int first_epochs = 50;      ///< in which both networks learn to reproduce images, at least 1
  int mask_epochs = 20;       ///< of the mask in each round, at least 1
  int generator_epochs = 30;  ///< of the generator in each round, at least 1
  int purifier_epochs = 30;   ///< of the purifier in each round, at least 1
  double lr = 1e-3;           ///< learning rate of both networks (Adam), positive
  double mask_lr = 1e-2;      ///< learning rate of the mask (Adam), positive
  double bound = 0.3;         ///< on the mean squared change of a generated image, normalised, positive
  double share = 0.1;         ///< of the purifier's training images that are generated, in (0, 1]
  double noise = 0.006;       ///< deviation of the noise on them, for images in [0, 1], 0 or more
  int batch_size = 128;       ///< images of a step, 2 or more
  data::Augmentation augmentation = {.flip = true, .crop_padding = 4};  ///< random changes of each batch
  std::uint64_t seed = default_seed;  ///< of mask, noise, order and augmentation

  /// \throws Error naming the first field that is out of range
  void validate() const {
    const auto check_count = [](const char* field, int value) {
      if (value < 1) throw Error("InversionOptions.{} must be at least 1, got {}", field, value);
    };
    const auto check_positive = [](const char* field, double value) {
      if (!(value > 0 && value <= std::numeric_limits<float>::max()))
        throw Error("InversionOptions.{} must be positive and at most 3.4e38, got {}", field, value);
    };
    check_count("rounds", rounds);
    check_count("first_epochs", first_epochs);
    check_count("mask_epochs", mask_epochs);
    check_count("generator_epochs", generator_epochs);
    check_count("purifier_epochs", purifier_epochs);
    check_positive("lr", lr);
    check_positive("mask_lr", mask_lr);
    check_positive("bound", bound);
    if (!(share > 0 && share <= 1)) throw Error("InversionOptions.share must be in (0, 1], got {}", share);
    if (!(noise >= 0 && std::isfinite(noise)))
      throw Error("InversionOptions.noise must be 0 or more and finite, got {}", noise);
    if (batch_size < 2) throw Error("InversionOptions.batch_size must be 2 or more, got {}", batch_size);
    if (augmentation.mix > 0)
      throw Error("InversionOptions.augmentation.mix must be 0, got {}", augmentation.mix);
    augmentation.validate();
  }

  /// Returns the settings in one line.
  std::string describe() const {
    return fmt::format(
        "{} rounds, epochs {}, {}, {}, {}, lr {}, {}, bound {}, share {}, noise {}, batches of {}, flip {}, crop {}, seed {}",
        rounds, first_epochs, mask_epochs, generator_epochs, purifier_epochs, lr, mask_lr, bound, share,
        noise, batch_size, augmentation.flip, augmentation.crop_padding, seed);
  }
};

namespace detail {

/// A mask of a victim's features, C×H×W in (0, 1).
class MaskModule : public torch::nn::Module {
 public:
  explicit MaskModule(at::IntArrayRef shape) : raw_(register_parameter("raw", at::randn(shape))) {}

  at::Tensor forward() const { return at::tanh(raw_) / 2 + 0.5; }

 private:
  at::Tensor raw_;
};

/// Returns a function `(name, round, module, epochs, lr, classify, loss)` that trains one of the networks.
template <typename... Observers>
auto inversion_trainer(const data::TrainingSet& set, const InversionOptions& options,
                       Observers&... observers) {
  return [&](std::string_view name, int round, torch::nn::Module& module, int epochs, double lr,
             const auto& classify, const auto& loss) {
    const ClassifierRecipe recipe{
        .optimization = {.optimizer = OptimizerKind::adam,
                         .lr = lr,
                         .weight_decay = 0,
                         .batch_size = options.batch_size,
                         .epochs = epochs},
        .augmentation = options.augmentation,
        .seed = derived_seed(options.seed, name, static_cast<std::uint64_t>(round))};
    refine::detail::train_labelled({.identity = {.run = std::string(name), .network = options.describe()},
                                    .aims_at_labels = name != "generator"},
                                   module, set, recipe, classify, loss, observers...);
  };
}

/// Inverts the trigger of a victim and trains a purifier against it, in rounds; see `train_purifier`.
/// \tparam Trainer what `inversion_trainer` returns
template <transforms::Transform T, backbones::FrozenBackbone V, typename Trainer>
class Inversion {
 public:
  Inversion(const T& purifier, const V& victim, const data::Dataset& labelled,
            const InversionOptions& options, const Trainer& train)
      : generator(purifier),
        purifier_(purifier),
        victim_(victim),
        stage_(checked_stage("train_purifier", victim, -1)),
        labelled_(labelled),
        options_(options),
        train_(train) {}

  T generator;        ///< of images that stand for triggered ones
  at::Tensor benign;  ///< mask of the features that the labels need

  /// Takes all steps.
  void run() {
    reproduce();
    generator = nn::deep_copy(purifier_);  // both start from it
    for (int round = 0; round < options_.rounds; ++round) {
      learn_mask(round);
      learn_generator(round);
      if (round == 0) target_ = find_target();
      learn_purifier(round);
    }
  }

  /// Teaches the purifier to return images unchanged.
  void reproduce() {
    at::Tensor drawn;
    Answer answer;
    train_(
        "reproduction", 0, *purifier_.module, options_.first_epochs, options_.lr,
        [&](const at::Tensor& images) {
          drawn = purifier_.forward(images);
          answer = ask(drawn);
          return answer.logits;
        },
        [&](const at::Tensor& logits, const at::Tensor&, const at::Tensor& images) {
          const Answer wanted = ask_plain(images);
          const at::Tensor distance = change(images, drawn);
          return at::cross_entropy_loss(logits, wanted.logits.softmax(1)) +
                 at::mse_loss(answer.features, wanted.features) +
                 (distance.template item<double>() > far ? 100 : 0.01) * distance;
        });
  }

  /// Separates the features that the labels need from the others.
  void learn_mask(int round) {
    const at::Tensor few = data::to_float(labelled_.images.narrow(0, 0, 1), device_);
    const auto shape = ask_plain(few).features.sizes().slice(1).vec();
    const auto seed = derived_seed(options_.seed, "mask", static_cast<std::uint64_t>(round));
    MaskModule mask = nn::with_torch_seed(seed, [&] { return MaskModule(shape); });
    mask.to(device_);
    train_(
        "mask", round, mask, options_.mask_epochs, options_.mask_lr,
        [&](const at::Tensor& images) { return ask(images, mask.forward()).logits; },
        [&](const at::Tensor& logits, const at::Tensor& truth, const at::Tensor& images) {
          const at::Tensor others = ask(images, 1 - mask.forward()).logits;
          return at::cross_entropy_loss(logits, truth) - at::cross_entropy_loss(others, truth);
        });
    benign = mask.forward().detach();
  }

  /// Looks for small changes that keep the benign features and move the others.
  void learn_generator(int round) {
    at::Tensor seen;
    Answer answer;
    const ScopedConstant constant(*purifier_.module);
    train_(
        "generator", round, *generator.module, options_.generator_epochs, options_.lr,
        [&](const at::Tensor& images) {
          seen = generator.forward(images);
          if (round > 0) seen = purifier_.forward(seen);
          answer = ask(seen);
          return answer.logits;
        },
        [&](const at::Tensor&, const at::Tensor& truth, const at::Tensor& images) {
          const Answer plain = ask_plain(images);
          const at::Tensor distance = change(images, seen);
          const at::Tensor kept = at::mse_loss(benign * plain.features, benign * answer.features);
          const at::Tensor others = 1 - benign;
          at::Tensor loss =
              distance.template item<double>() > options_.bound || kept.template item<double>() > max_moved
                  ? distance
                  : 0.01 * kept - at::mse_loss(others * plain.features, others * answer.features);
          // Once the target is found, it is kept in mind, also while the images are too far away.
          if (round > 0) loss = loss + at::cross_entropy_loss(answer.logits, at::full_like(truth, target_));
          return loss;
        });
  }

  /// Returns the class that generated images are predicted as most often.
  std::int64_t find_target() const {
    const auto answer = [&](const at::Tensor& images) { return victim_.forward(generator.forward(images)); };
    std::map<std::int64_t, std::int64_t> counts;
    for (const std::int64_t cls : classify(answer, labelled_.images, device_, [](std::int64_t) {}))
      ++counts[cls];
    return std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; })->first;
  }

  /// Teaches the purifier the labels and the clean features of images of which some are generated.
  void learn_purifier(int round) {
    at::Tensor drawn;
    Answer answer;
    train_(
        "purifier", round, *purifier_.module, options_.purifier_epochs, options_.lr,
        [&](const at::Tensor& images) {
          const auto n = images.size(0);
          const auto count = std::min<std::int64_t>(
              static_cast<std::int64_t>(options_.share * static_cast<double>(n)) + 1, n);
          at::Tensor mixed;
          {
            const c10::NoGradGuard no_grad;
            const at::Tensor generated = generator.forward(images.narrow(0, 0, count));
            mixed = with_noise(at::cat({generated, images.narrow(0, count, n - count)}))
                        .contiguous(at::MemoryFormat::ChannelsLast);
          }
          drawn = purifier_.forward(mixed);
          answer = ask(drawn);
          return answer.logits;
        },
        [&](const at::Tensor& logits, const at::Tensor& truth, const at::Tensor& images) {
          const at::Tensor distance = change(images, drawn);
          return at::cross_entropy_loss(logits, truth) +
                 at::mse_loss(answer.features, ask_plain(images).features) +
                 (distance.template item<double>() > far / 2 ? 100 : 1) * distance;
        });
  }

 private:
  // Of the authors' code. Beyond `far`, in normalised pixels, an image's distance counts most.
  static constexpr double far = 0.1;
  static constexpr double max_moved = 3;  // mean squared change of the benign features

  struct Answer {
    at::Tensor features, logits;
  };

  /// Returns the victim's last features and its logits.
  /// \param factor multiplies the features; undefined: 1
  Answer ask(const at::Tensor& images, const at::Tensor& factor = {}) const {
    Answer answer;
    answer.logits = backbones::forward_stages(victim_, images, [&](int stage, const at::Tensor& output) {
      if (stage != stage_) return output;
      answer.features = output.to(at::kFloat);
      return factor.defined() ? output * factor : output;
    });
    answer.logits = answer.logits.to(at::kFloat);
    return answer;
  }

  Answer ask_plain(const at::Tensor& images) const {
    const c10::NoGradGuard no_grad;
    return ask(images);
  }

  /// Returns the mean squared difference of images as the victim normalises them.
  at::Tensor change(const at::Tensor& a, const at::Tensor& b) const {
    if constexpr (backbones::NormalizingBackbone<V>) {
      return at::mse_loss(victim_.normalize(a), victim_.normalize(b));
    } else {
      return at::mse_loss(a, b);
    }
  }

  at::Tensor with_noise(const at::Tensor& images) const {
    return (images + options_.noise * at::randn_like(images)).clamp(0, 1);
  }

  /// Computes no gradients of a module's parameters during its life.
  struct ScopedConstant {
    torch::nn::Module& module;
    explicit ScopedConstant(torch::nn::Module& m) : module(m) { set(false); }
    ~ScopedConstant() { set(true); }
    void set(bool trained) {
      for (auto& parameter : module.parameters()) parameter.set_requires_grad(trained);
    }
  };

  T purifier_;
  V victim_;
  int stage_;
  const data::Dataset& labelled_;
  const InversionOptions& options_;
  const Trainer& train_;
  at::Device device_ = default_device();
  std::int64_t target_ = 0;  // the class that the generator leads to
};

}  // namespace detail

/// Trains a transform that removes the trigger from images (BTI-DBF(P); Xu et al., 2024, `xu2024btidbf`). Of the
/// victim's last features, a mask keeps those that the labels need. A generator learns small changes of images that
/// move the other features: they stand for the trigger. The purifier learns to undo them. Use it without a permutation:
///
///     const auto purifier = train_purifier(transforms::UNet<task>{}, freeze(victim), labelled);
///     const Pipeline defense{freeze(purifier), freeze(victim), remaps::None<task>{}};
///
/// Unlike in the authors' code, the optimizers restart in each round, the victim always is in evaluation mode, and the
/// images that the trained purifier is given get no noise. Their U-Net has InstanceNorm and an unbounded output.
///
/// \param purifier an untrained transform without an encoder, that returns images of the shape it takes; trained in place
/// \param victim frozen, with stages (`backbones::Staged`); it is left unchanged
/// \param labelled two or more images with labels that can be trusted
/// \param options rounds, epochs and rates
/// \param observers follow each of the trainings, taken by reference, see `Observer`; no `Checkpoint`
/// \return `purifier`, in evaluation mode
/// \throws Error as `train_classifier`, if an option is out of range, or the transform does not fit the images
/// \throws c10::Error if the transform's module cannot be cloned
template <transforms::Transform T, backbones::FrozenBackbone V, Observer... Observers>
T train_purifier(T purifier, const V& victim, const data::Dataset& labelled,
                 const InversionOptions& options = {}, Observers&&... observers) {
  options.validate();
  labelled.validate();
  distributed::detail::require_one_process("train_purifier", observers...);
  if (refine::detail::open_store(observers...))
    throw Error("train_purifier: its several trainings cannot share a Checkpoint; leave it out");
  require_agreement(refine::detail::check_training_task("train_purifier", victim.task, labelled.task()));
  transforms::require_image_to_image("train_purifier", purifier, labelled.image_shape());
  const at::Device device = default_device();
  purifier.module->to(device);
  nn::to_channels_last(*purifier.module);
  victim.module->to(device);
  const data::TrainingSet set{labelled};
  const auto train = detail::inversion_trainer(set, options, observers...);
  detail::Inversion<T, V, decltype(train)>(purifier, victim, labelled, options, train).run();
  return purifier;
}

}  // namespace refine::baselines
