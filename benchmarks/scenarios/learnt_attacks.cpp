#include "benchmarks/scenarios/learnt_attacks.hpp"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include <refine/attacks/learnt_triggers.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/attacks/plans.hpp>
#include <refine/attacks/published.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/core/random.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/stop_on_signal.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/transforms/unet.hpp>

namespace refine::scenarios {

namespace {

constexpr std::int64_t cross_images = 256;  // whose patches covers get

using Noise = attacks::DrawnNoise<transforms::UNet<>>;
using Patch = attacks::DrawnPatch<transforms::EncoderDecoder<>>;

transforms::UNet<> noise_network(const ImageShape& image, int width, std::uint64_t seed) {
  return {.image = image, .width = width, .seed = seed};
}

/// Twice as wide, since it has no skip connections.
transforms::EncoderDecoder<> patch_network(const ImageShape& image, int width, std::uint64_t seed) {
  return {.image = image, .width = 2 * width, .seed = seed};
}

}  // namespace

bool is_learnt(std::string_view attack) {
  return std::ranges::find(learnt_attacks, attack) != learnt_attacks.end();
}

TriggerTensors learn_trigger(std::string_view attack, const data::Dataset& clean,
                             const TriggerTraining& training) {
  const ImageShape image = clean.image_shape();
  const std::uint64_t seed = training.recipe.seed;
  if (attack == "Narcissus") {
    const at::Tensor of_target = (clean.labels == training.target).nonzero().flatten();
    const attacks::UniversalPerturbation perturbation{.model = freeze(training.classifier),
                                                      .target = training.target,
                                                      .epsilon = 16.0 / 255,
                                                      .steps = training.steps,
                                                      .seed = seed,
                                                      .show = true};
    return {{"values", perturbation(clean.images.index_select(0, of_target))}};
  }
  ProgressBar bar;
  StopOnSignal signals("the same command");
  if (attack == "LIRA") {
    const auto noise = attacks::learn_noise(
        noise_network(image, training.width, derived_seed(seed, "noise")), training.classifier, clean,
        {.target = training.target, .recipe = training.recipe}, bar, training.checkpoint, signals);
    return nn::state_dict(*noise.generator.module, "noise.");
  }
  const auto patch = attacks::learn_patch(
      patch_network(image, training.width, derived_seed(seed, "pattern")),
      patch_network(image, training.width, derived_seed(seed, "mask")), training.classifier, clean,
      {.target = training.target, .recipe = training.recipe}, bar, training.checkpoint, signals);
  TriggerTensors tensors = nn::state_dict(*patch.pattern.module, "pattern.");
  tensors.merge(nn::state_dict(*patch.mask.module, "mask."));
  return tensors;
}

attacks::AnyAttack make_learnt_attack(std::string_view attack, const TriggerTensors& trigger,
                                      const attacks::AttackOptions& options, const data::Dataset& clean,
                                      int width) {
  const ImageShape image = clean.image_shape();
  const std::string name(attack);
  const auto load = [&](const auto& network, const std::string& prefix) {
    TriggerTensors tensors;
    for (const auto& [key, tensor] : trigger) {
      if (key.starts_with(prefix)) tensors.emplace(key, tensor);
    }
    if (!trigger.empty()) nn::load_state_dict(*network.module, tensors, name, prefix);
    network.module->to(default_device());
    network.module->eval();
    return network;
  };
  if (attack == "Narcissus") {
    const auto values = trigger.find("values");
    auto narcissus = attacks::narcissus<>(
        values != trigger.end() ? values->second : at::zeros({image.channels, image.height, image.width}),
        options.target);
    narcissus.rate = options.rate.value_or(narcissus.rate);
    narcissus.seed = options.seed;
    return {narcissus, name};
  }
  if (attack == "LIRA") {
    attacks::DirtyLabel<Noise> lira{.trigger = {.generator = load(noise_network(image, width, 0), "noise.")},
                                    .target = options.target,
                                    .seed = options.seed};
    lira.rate = options.rate.value_or(lira.rate);
    return {lira, name};
  }
  const Patch patch{.pattern = load(patch_network(image, width, 0), "pattern."),
                    .mask = load(patch_network(image, width, 0), "mask.")};
  const double rate = options.rate.value_or(0.1);
  return {attacks::Covered<Patch>{
              .trigger = patch,
              .covers = {patch.cross(data::to_float(data::evenly_spread(clean.images, cross_images)))},
              .target = options.target,
              .rate = rate,
              .cover_rate = rate,
              .seed = options.seed},
          name};
}

}  // namespace refine::scenarios
