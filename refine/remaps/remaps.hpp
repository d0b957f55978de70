#pragma once

/// \namespace refine::remaps
/// Remaps: fixed permutations of the classes behind the victim, so that a backdoor's target is no longer what the
/// attacker asked for. The concept is `Remap`.
///
/// ```cpp
/// refine::remaps::Derangement<refine::tasks::cifar10> remap{.seed = 7};
/// const at::Tensor renamed = refine::remaps::apply(remap, logits);
/// ```

#include <refine/remaps/permutations.hpp>
#include <refine/remaps/remap.hpp>
