#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include <refine/attacks/attack.hpp>
#include <refine/attacks/by_name.hpp>
#include <refine/backbones/any_backbone.hpp>
#include <refine/data/dataset.hpp>
#include <refine/training/checkpoint.hpp>
#include <refine/training/recipe.hpp>

namespace refine::scenarios {

/// The attacks whose trigger is learnt before images are poisoned.
inline constexpr std::array<std::string_view, 3> learnt_attacks = {"Narcissus", "Input-aware", "LIRA"};

/// True if the trigger of an attack is learnt.
bool is_learnt(std::string_view attack);

/// The tensors of a learnt trigger, by name.
using TriggerTensors = std::map<std::string, at::Tensor>;

/// How a trigger is learnt.
struct TriggerTraining {
  int target = 0;  ///< the class that the attacker wants
  /// Of Narcissus: trained on clean images. Otherwise untrained, and trained along with the trigger.
  backbones::AnyBackbone classifier;
  int width = 0;                 ///< of the networks that draw, even
  int steps = 0;                 ///< of Narcissus' perturbation
  ClassifierRecipe recipe = {};  ///< of the networks, and of the seed
  Checkpoint checkpoint = {};    ///< of the training; unused by Narcissus, whose perturbation is not trained
};

/// Learns a trigger, with a progress bar.
/// \param attack one of `learnt_attacks`
/// \throws Error if a network does not fit the images
/// \throws Stopped at SIGINT or SIGTERM
TriggerTensors learn_trigger(std::string_view attack, const data::Dataset& clean,
                             const TriggerTraining& training);

/// Makes an attack with a learnt trigger.
/// \param attack one of `learnt_attacks`
/// \param trigger what `learn_trigger` returned; empty: an untrained one, to check everything else
/// \param width as in `TriggerTraining`
/// \throws Error if the tensors are not those of the trigger
attacks::AnyAttack make_learnt_attack(std::string_view attack, const TriggerTensors& trigger,
                                      const attacks::AttackOptions& options, const data::Dataset& clean,
                                      int width);

}  // namespace refine::scenarios
