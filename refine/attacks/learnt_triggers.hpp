#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
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
#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/nn/module.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/transform.hpp>

/// \file
/// Triggers that a network draws for each image, learnt by the attacker: noise (`learn_noise`) or a patch
/// (`learn_patch`). Not included by `attacks.hpp`, since they are trained.

namespace refine::attacks {

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
  /// \param images float K×C×H×W in [0, 1], K at least 1
  /// \throws Error if there are none, or they are of another shape or type
  DrawnPatch cross(const at::Tensor& images) const {
    if (!images.defined() || images.dim() != 4 || images.size(0) < 1 ||
        !compatible(image, data::image_shape_of(images)) || !at::isFloatingType(images.scalar_type()))
      throw Error("DrawnPatch::cross: images must be one or more, floating-point, of the shape {}", image);
    return {.pattern = pattern, .mask = mask, .others = images, .image = image};
  }
};

/// Options of `learn_noise`.
struct NoiseOptions {
  int target = 0;              ///< class that images with the noise are to become
  double epsilon = 8.0 / 255;  ///< largest change of a value, in (0, 1]
  double weight = 1;           ///< of the loss of these images, beside that of clean ones, positive
  ClassifierRecipe recipe = recipes::fast_classifier;  ///< of both networks

  /// \throws Error naming the first field that is out of range
  void validate() const {
    if (!(epsilon > 0 && epsilon <= 1))
      throw Error("NoiseOptions.epsilon must be in (0, 1], got {}", epsilon);
    if (!(weight > 0 && std::isfinite(weight)))
      throw Error("NoiseOptions.weight must be positive and finite, got {}", weight);
  }
};

/// Learns noise that a network draws for each image, together with a classifier that takes it for the target class:
/// the first stage of LIRA (Doan et al., 2021, `doan2021lira`). In the second, a victim is trained on images with it,
/// here by poisoning:
///
///     const auto noise = learn_noise(transforms::UNet<task>{.width = 16}, backbones::ResNet18<task>{}, train);
///     const DirtyLabel attack{.trigger = noise, .target = 0};
///     auto victim = train_classifier(backbones::ResNet18<task>{}, attack.poison(train));
///
/// Unlike in the paper, both networks take their steps together.
/// \param generator untrained, without an encoder; trained in place
/// \param classifier the attacker's own, not frozen; trained in place
/// \param dataset two or more labelled images
/// \param options the target, the size of the noise, the training
/// \param observers follow the training, taken by reference, see `Observer`
/// \throws Error as `train_classifier`, if an option is out of range, or the generator does not fit the images
template <transforms::Transform T, backbones::Backbone B, Observer... Observers>
requires(!backbones::FrozenBackbone<B>) DrawnNoise<T> learn_noise(T generator, const B& classifier,
                                                                  const data::Dataset& dataset,
                                                                  const NoiseOptions& options = {},
                                                                  Observers&&... observers) {
  options.validate();
  distributed::detail::require_one_process("learn_noise", observers...);
  detail::check_learning("learn_noise", generator, classifier.task, dataset, options.target, options.recipe);
  DrawnNoise<T> noise{.generator = std::move(generator), .epsilon = options.epsilon};
  at::Tensor stamped;  // logits of the current batch
  detail::learn_together(
      {.run = "trigger",
       .network = fmt::format("noise of {}, target {}, epsilon {}, weight {}", nn::describe(noise.generator),
                              options.target, options.epsilon, options.weight),
       .constants = backbones::constants_of(classifier)},
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
///     const Covered attack{.trigger = patch,
///                          .covers = {patch.cross(data::to_float(data::evenly_spread(train.images, 256)))},
///                          .rate = 0.1,
///                          .cover_rate = 0.1};
///
/// Unlike in the paper, all networks take their steps together (there, the mask is trained first), and the mask is
/// limited by its mean over an image (there, pixel by pixel).
/// \param pattern, mask untrained, without an encoder; trained in place
/// \param classifier the attacker's own, not frozen; trained in place
/// \param dataset two or more labelled images
/// \param options the target, shares and weights, the training
/// \param observers follow the training, taken by reference, see `Observer`
/// \throws Error as `train_classifier`, if an option is out of range, or a network does not fit the images
template <transforms::Transform T, backbones::Backbone B, Observer... Observers>
requires(!backbones::FrozenBackbone<B>) DrawnPatch<T> learn_patch(T pattern, T mask, const B& classifier,
                                                                  const data::Dataset& dataset,
                                                                  const PatchOptions& options = {},
                                                                  Observers&&... observers) {
  options.validate();
  if (pattern.module == mask.module)
    throw Error("learn_patch: pattern and mask must be two networks, got one; make each with its own module");
  distributed::detail::require_one_process("learn_patch", observers...);
  for (const T* network : {&pattern, &mask})
    detail::check_learning("learn_patch", *network, classifier.task, dataset, options.target, options.recipe);
  const DrawnPatch<T> patch{.pattern = std::move(pattern), .mask = std::move(mask)};
  const auto part_of = [](double share, std::int64_t n) {
    return std::min<std::int64_t>(static_cast<std::int64_t>(std::ceil(share * static_cast<double>(n))), n);
  };
  at::Tensor patterns, shares;  // of the images of the current batch
  detail::learn_together(
      {.run = "trigger",
       .network =
           fmt::format("patch of {}, target {}, shares {} and {}, diversity {}, sparsity {}, density {}",
                       nn::describe(patch.pattern), options.target, options.share, options.cross_share,
                       options.diversity, options.sparsity, options.density),
       .constants = backbones::constants_of(classifier)},
      {classifier.module, patch.pattern.module, patch.mask.module}, dataset, options.recipe,
      [&](const at::Tensor& images) {
        const std::int64_t n = images.size(0), own = part_of(options.share, n),
                           cross = std::min(part_of(options.cross_share, n), n - own);
        patterns = patch.pattern.forward(images);
        shares = patch.share_of(images);
        // The first images get their own patches, the next ones that of the image before, and the rest none.
        const auto shift = [&](const at::Tensor& drawn) {
          return at::cat({drawn.narrow(0, 0, own), drawn.narrow(0, own - 1, n - own)});
        };
        const at::Tensor is_stamped = (at::arange(n, shares.options()) < own + cross).view({-1, 1, 1, 1});
        return classifier.forward((images + (shift(patterns) - images) * shift(shares) * is_stamped)
                                      .contiguous(at::MemoryFormat::ChannelsLast));
      },
      [&](const at::Tensor& logits, const at::Tensor& truth, const at::Tensor& images) {
        at::Tensor wanted = truth.clone();
        wanted.narrow(0, 0, part_of(options.share, truth.size(0))).fill_(options.target);
        const auto distance = [](const at::Tensor& x) {
          return (x - x.roll(1, 0)).square().mean({1, 2, 3}).add(1e-12).sqrt();
        };
        const at::Tensor between = distance(images);
        constexpr double max_ratio = 1e3;  // equal patches would outweigh everything else
        const auto sameness = [&](const at::Tensor& x) {
          return (between / distance(x.to(at::kFloat))).clamp_max(max_ratio).mean();
        };
        return refine::detail::cross_entropy(logits, wanted, options.recipe) +
               options.diversity * (sameness(patterns) + sameness(shares)) / 2 +
               options.sparsity * (shares.to(at::kFloat).mean({1, 2, 3}) - options.density).relu().mean();
      },
      observers...);
  return patch;
}

}  // namespace refine::attacks
