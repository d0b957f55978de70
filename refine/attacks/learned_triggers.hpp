#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tanh.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <refine/attacks/detail/learning.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/transform.hpp>

/// \file
/// Triggers that the attacker learns: one change for all images (`UniversalPerturbation`), noise (`learn_noise`) or a
/// patch (`learn_patch`) that a network draws for each image.

namespace refine::attacks {

/// Finds one change of at most ±epsilon that, added to any image, makes a model predict a class: a targeted
/// universal adversarial perturbation (Moosavi-Dezfooli et al., 2017, `moosavi2017universal`).
///
/// Each step takes a batch of images and follows the sign of the gradient of the mean cross-entropy with the target,
/// clamped to ±epsilon, as in Shafahi et al. (2020, `shafahi2020universal`). With the defended model as `.model` and
/// triggered images, this asks whether a backdoor can be woken behind the defense:
///
///     const at::Tensor change = attacks::UniversalPerturbation{.model = defense, .target = 0}(triggered);
///     const auto woken = triggers::stamp(triggers::Perturbation<>{.values = change}, triggered_test);
///     std::cout << evaluate(defense, test, woken, 0);
///
/// Determinism: the same fields and images, on the same device with the same number of threads, give the same result
/// on the CPU.
struct UniversalPerturbation {
  Surrogate model = {};               ///< to be misled; moved to `default_device()`
  int target = 0;                     ///< class that is to be predicted
  double epsilon = 8.0 / 255;         ///< largest change of a value, in [0, 1]
  double step = epsilon / 10;         ///< length of a step, in [0, 1]
  int steps = 300;                    ///< number of steps, at least 1
  std::int64_t batch_size = 128;      ///< images of a step, at least 1
  std::uint64_t seed = default_seed;  ///< seed of the choice of images
  bool show = false;                  ///< true: shows a progress line on standard error

  /// Returns the change: float C×H×W in ±epsilon, on the host.
  ///
  /// \param images uint8 N×C×H×W, N at least 1; each step takes the next `batch_size` in a random order
  /// \throws Error if there is no model, the model does not fit the images or has no class `target`, its logits or
  ///   their gradient are not finite, images are of another type or shape, or a field is out of range
  at::Tensor operator()(const at::Tensor& images) const;

  /// \throws Error if there is no model, or a field is out of range
  void check() const;
};

/// Adds noise to an image that a network draws for it, learnt by `learn_noise` (LIRA; Doan et al., 2021, `doan2021lira`):
/// x + epsilon·(2·g(x) − 1), clamped to [0, 1]. A `Trigger`; copies share the network.
/// \tparam T the network: any transform that returns images of the shape that it takes
template <transforms::Transform T>
struct DrawnNoise {
  T generator;                         ///< in evaluation mode
  double epsilon = 8.0 / 255;          ///< largest change of a value, in [0, 1]
  ImageShape image = generator.image;  ///< shape of the images

  /// Returns the changed images. No gradient flows through.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor apply(const at::Tensor& images) const {
    const c10::NoGradGuard no_grad;
    return detail::on_device_of(*generator.module, images, [&](const at::Tensor& x) { return add_to(x); });
  }

  /// Returns the changed images, with a gradient for the network, on whose device the images are.
  at::Tensor add_to(const at::Tensor& images) const {
    return (images + epsilon * (2 * generator.forward(images) - 1)).clamp(0, 1);
  }
};

/// Replaces some pixels of an image by a pattern; one network draws the pattern, and another where it goes, learnt by
/// `learn_patch` (the input-aware attack; Nguyen and Tran, 2020, `nguyen2020inputaware`). A `Trigger`; copies share the
/// networks.
/// \tparam T both networks: any transform that returns images of the shape that it takes
template <transforms::Transform T>
struct DrawnPatch {
  T pattern;               ///< what is drawn, in evaluation mode
  T mask;                  ///< where: the mean over its channels, made nearly 0 or 1
  at::Tensor others = {};  ///< float K×C×H×W: images whose patch other images get (`cross`); or undefined
  ImageShape image = pattern.image;  ///< shape of the images

  /// Returns the images, each with the patch that is drawn for it, or, with `others`, for one of these, which depends on
  /// the image alone. No gradient flows through.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor apply(const at::Tensor& images) const {
    const c10::NoGradGuard no_grad;
    return detail::on_device_of(*pattern.module, images, [&](const at::Tensor& x) {
      return others.defined()
                 ? put(x, others.to(x.device()).index_select(0, detail::index_of(x, others.size(0))))
                 : put(x, x);
    });
  }

  /// Returns the images with the patches of other ones, with a gradient for the networks.
  /// \param images float N×C×H×W in [0, 1]
  /// \param from images of the same shape, for which the patches are drawn
  at::Tensor put(const at::Tensor& images, const at::Tensor& from) const {
    return images + (pattern.forward(from) - images) * share_of(from);
  }

  /// Returns how much of each pixel is replaced: float N×1×H×W in (0, 1), nearly 0 or 1.
  at::Tensor share_of(const at::Tensor& images) const {
    return at::tanh(20 * mask.forward(images).mean(1, /*keepdim=*/true) - 10) / 2 + 0.5;
  }

  /// Returns the trigger that puts the patch of another image, which is to mean nothing: a cover for `Covered`.
  /// \param images float K×C×H×W
  DrawnPatch cross(const at::Tensor& images) const {
    return {.pattern = pattern, .mask = mask, .others = images, .image = image};
  }
};

/// Options of `learn_noise`.
struct NoiseOptions {
  int target = 0;              ///< class that images with the noise are to become
  double epsilon = 8.0 / 255;  ///< largest change of a value, in (0, 1]
  double weight = 1;           ///< of the loss of these images, beside that of clean ones, positive
  ClassifierRecipe recipe = recipes::fast_classifier;  ///< of both networks
};

/// Learns noise that a network draws for each image, together with a classifier that takes it for the target class:
/// the first stage of LIRA (Doan et al., 2021, `doan2021lira`). In the second, a victim is trained on images with it,
/// here by poisoning:
///
///     const auto noise = learn_noise(transforms::UNet<task.image>{.width = 16}, backbones::ResNet18<task>{}, train);
///     const DirtyLabel<std::remove_const_t<decltype(noise)>> attack{.trigger = noise, .target = 0};
///     auto victim = train_classifier(backbones::ResNet18<task>{}, attack.poison(train));
///
/// Unlike in the paper, both networks take their steps together.
/// \param generator untrained, without an encoder; trained in place
/// \param classifier the attacker's own, trained in place
/// \param dataset two or more labelled images
/// \param options the target, the size of the noise, the training
/// \param observers follow the training, taken by reference, see `Observer`
/// \throws Error as `train_classifier`, if an option is out of range, or the generator does not fit the images
template <transforms::Transform T, backbones::Backbone B, Observer... Observers>
DrawnNoise<T> learn_noise(T generator, const B& classifier, const data::Dataset& dataset,
                          const NoiseOptions& options = {}, Observers&&... observers) {
  if (!(options.epsilon > 0 && options.epsilon <= 1))
    throw Error("NoiseOptions.epsilon must be in (0, 1], got {}", options.epsilon);
  if (!(options.weight > 0 && std::isfinite(options.weight)))
    throw Error("NoiseOptions.weight must be positive and finite, got {}", options.weight);
  detail::check_learning("learn_noise", generator, classifier.task, dataset, options.target, options.recipe);
  DrawnNoise<T> noise{.generator = std::move(generator), .epsilon = options.epsilon};
  at::Tensor stamped;  // logits of the current batch
  detail::learn_together(
      {.run = "trigger",
       .network = fmt::format("noise, target {}, epsilon {}, weight {}", options.target, options.epsilon,
                              options.weight)},
      {classifier.module, noise.generator.module}, dataset, options.recipe,
      [&](const at::Tensor& images) {
        const at::Tensor all =
            at::cat({images, noise.add_to(images)}).contiguous(at::MemoryFormat::ChannelsLast);
        const at::Tensor logits = classifier.forward(all);
        stamped = logits.narrow(0, images.size(0), images.size(0)).to(at::kFloat);
        return logits.narrow(0, 0, images.size(0));
      },
      [&](const at::Tensor& logits, const at::Tensor& truth, const at::Tensor&) {
        return refine::detail::cross_entropy(logits, truth, options.recipe) +
               options.weight * at::cross_entropy_loss(stamped, at::full_like(truth, options.target));
      },
      observers...);
  return noise;
}

/// Options of `learn_patch`.
struct PatchOptions {
  int target = 0;      ///< class that images with their own patch are to become
  double share = 0.1;  ///< of a batch that gets its own patch, in (0, 1]
  double cross_share =
      0.1;  ///< of a batch that gets another image's and keeps its class; both at most 1 together
  double diversity = 1;   ///< weight of the ratio of the images' distances to their patches', 0 or more
  double sparsity = 100;  ///< weight of what a mask exceeds `density` by, 0 or more
  double density = 0.1;   ///< share of an image that may be replaced at no cost, in [0, 1]
  ClassifierRecipe recipe = recipes::fast_classifier;  ///< of all three networks

  /// \throws Error naming the first field that is out of range
  void validate() const {
    if (!(share > 0 && cross_share >= 0 && share + cross_share <= 1)) {
      throw Error(
          "PatchOptions: share must be positive, cross_share 0 or more, and both at most 1 (got {} and {})",
          share, cross_share);
    }
    for (const auto& [field, weight] : {std::pair{"diversity", diversity}, {"sparsity", sparsity}}) {
      if (!(weight >= 0 && std::isfinite(weight)))
        throw Error("PatchOptions.{} must be 0 or more and finite, got {}", field, weight);
    }
    if (!(density >= 0 && density <= 1))
      throw Error("PatchOptions.density must be in [0, 1], got {}", density);
  }
};

/// Learns patches that differ from image to image, together with a classifier that takes an image with its own patch
/// for the target class, and with another image's for its own class (the input-aware attack; Nguyen and Tran, 2020,
/// `nguyen2020inputaware`). A victim learns them by poisoning, with other images' patches as covers:
///
///     const auto patch = learn_patch(pattern, mask, backbones::ResNet18<task>{}, train);
///     const Covered<std::remove_const_t<decltype(patch)>> attack{
///         .trigger = patch, .covers = {patch.cross(data::to_float(train.images.narrow(0, 0, 256)))}, .rate = 0.1,
///         .cover_rate = 0.1};
///
/// Unlike in the paper, all networks take their steps together; there, the mask is trained first.
/// \param pattern, mask untrained, without an encoder; trained in place
/// \param classifier the attacker's own, trained in place
/// \param dataset two or more labelled images
/// \param options the target, shares and weights, the training
/// \param observers follow the training, taken by reference, see `Observer`
/// \throws Error as `train_classifier`, if an option is out of range, or a network does not fit the images
template <transforms::Transform T, backbones::Backbone B, Observer... Observers>
DrawnPatch<T> learn_patch(T pattern, T mask, const B& classifier, const data::Dataset& dataset,
                          const PatchOptions& options = {}, Observers&&... observers) {
  options.validate();
  for (const T* network : {&pattern, &mask})
    detail::check_learning("learn_patch", *network, classifier.task, dataset, options.target, options.recipe);
  const DrawnPatch<T> patch{.pattern = std::move(pattern), .mask = std::move(mask)};
  const auto part_of = [](double share, std::int64_t n) {
    return std::min<std::int64_t>(static_cast<std::int64_t>(std::ceil(share * static_cast<double>(n))), n);
  };
  at::Tensor all;  // logits of the current batch
  detail::learn_together(
      {.run = "trigger",
       .network = fmt::format("patch, target {}, shares {} and {}, diversity {}, sparsity {}, density {}",
                              options.target, options.share, options.cross_share, options.diversity,
                              options.sparsity, options.density)},
      {classifier.module, patch.pattern.module, patch.mask.module}, dataset, options.recipe,
      [&](const at::Tensor& images) {
        const std::int64_t n = images.size(0), own = part_of(options.share, n),
                           cross = std::min(part_of(options.cross_share, n), n - own);
        const at::Tensor stamped = patch.put(images.narrow(0, 0, own), images.narrow(0, 0, own)),
                         crossed = images.narrow(0, own, cross),
                         others = images.roll(1, 0).narrow(0, own, cross);
        std::vector<at::Tensor> parts = {stamped};
        if (cross > 0) parts.push_back(patch.put(crossed, others));
        parts.push_back(images.narrow(0, own + cross, n - own - cross));
        all = classifier.forward(at::cat(parts).contiguous(at::MemoryFormat::ChannelsLast)).to(at::kFloat);
        return all;
      },
      [&](const at::Tensor& logits, const at::Tensor& truth, const at::Tensor& images) {
        at::Tensor wanted = truth.clone();
        wanted.narrow(0, 0, part_of(options.share, truth.size(0))).fill_(options.target);
        const at::Tensor patterns = patch.pattern.forward(images), shares = patch.share_of(images);
        const auto distance = [](const at::Tensor& x) {
          return (x - x.roll(1, 0)).square().mean({1, 2, 3}).add(1e-12).sqrt();
        };
        const at::Tensor between = distance(images);
        const auto sameness = [&](const at::Tensor& drawn) {
          return (between / (distance(drawn) + 1e-7)).clamp_max(1e3).mean();
        };
        return refine::detail::cross_entropy(logits, wanted, options.recipe) +
               options.diversity * (sameness(patterns) + sameness(shares)) / 2 +
               options.sparsity * (shares.mean({1, 2, 3}) - options.density).relu().mean();
      },
      observers...);
  return patch;
}

}  // namespace refine::attacks

#if !defined(REFINE_COMPILED_LIB)
#include <refine/attacks/impl/learned_triggers.ipp>
#endif
