#pragma once

/// \namespace refine::attacks
/// Backdoor attacks by poisoning: a trigger (`refine::triggers`) times a plan, which says how many
/// images are stamped, which, and with what label. Everything here models `Attack`. `by_name.hpp`,
/// the choice at run time, and `learnt_triggers.hpp`, which trains networks, are not included by `attacks.hpp`.
///
/// ```cpp
/// using namespace refine;
/// const auto attack = attacks::BadNets<task>{.target = 0, .rate = 0.1};
/// const auto victim = train_classifier(backbones::ResNet18<task>{}, attack.poison(train));
/// const at::Tensor triggered = attack.trigger_images(test.images);  // uint8 N×C×H×W
/// ```

#include <refine/attacks/attack.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/attacks/plans.hpp>
#include <refine/attacks/published.hpp>
