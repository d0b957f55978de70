#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <refine/attacks/attack.hpp>
#include <refine/attacks/clean_label.hpp>
#include <refine/attacks/covered.hpp>
#include <refine/attacks/dirty_label.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/rotate.hpp>
#include <refine/triggers/warp.hpp>

/// The published attacks, as aliases of trigger × poisoning plan.
namespace refine::attacks {

/// Gu et al., 2017, `gu2017badnets`: a patch in the corner, label := target.
template <Task kTask = dynamic_task>
using BadNets = DirtyLabel<triggers::Patch<kTask.image>>;

/// Chen et al., 2017, `chen2017blended`: a faint picture over the image, label := target.
template <Task kTask = dynamic_task>
using Blended = DirtyLabel<triggers::Blend<kTask.image>>;

/// Nguyen and Tran, 2021, `nguyen2021wanet`: a faint warping of the image, label := target. The paper's noise
/// mode is `wanet_with_noise`.
template <Task kTask = dynamic_task>
using WaNet = DirtyLabel<triggers::Warp<kTask.image>>;

/// Xu et al., 2023, `xu2023batt`: the image turned by 16°, label := target; clean images turn a little, at
/// random, in every epoch, and the victim's recipe mirrors clean ones alone.
template <Task kTask = dynamic_task>
using Batt = DirtyLabel<triggers::Rotate<kTask.image>, demands::batt>;

/// Li et al., 2021, `li2021physical`: the patch of BadNets; in training, every image is changed as a camera
/// changes what it sees. Test images get the plain patch.
template <Task kTask = dynamic_task>
using Physical = DirtyLabel<triggers::Patch<kTask.image>, demands::physical>;

/// Turner et al., 2019, `turner2019labelconsistent`: images of the target class are perturbed against a
/// benign model (`.perturbation = Pgd{.model = benign}`), then get the patch of BadNets, and keep their
/// label.
template <Task kTask = dynamic_task>
using LabelConsistent = CleanLabel<triggers::Patch<kTask.image>>;

/// Qi et al., 2023, `qi2023adaptive`: one of four patches on each poisoned image, and on cover images, which
/// keep their label; two of them together on test images. The published rates are those of the defaults for
/// ResNets, 0.03 and 0.06 for VGG, DenseNet and ViT.
template <Task kTask = dynamic_task>
using AdaptivePatch = Covered<triggers::Patches<kTask.image>>;

/// What `by_name` tells an attack. The seed is of the choice of images alone: an attack's picture or grid is
/// always the same, so that a later run with another seed still evaluates with the trigger that the victim
/// knows.
struct AttackOptions {
  ImageShape image = {};  ///< of the data; the patch, the picture and the grid need it in full
  int target = 0;
  /// Share of the training images, of the target class's for LabelConsistent; none: the attack's published
  /// one.
  std::optional<double> rate = std::nullopt;
  std::uint64_t seed = default_seed;
  Surrogate benign = {};             ///< LabelConsistent perturbs images against it, and can't poison without
  std::filesystem::path store = {};  ///< LabelConsistent keeps them in this file; empty: nowhere
  bool show = false;                 ///< progress on standard error, where poisoning takes long
};

namespace detail {

template <typename A>
AnyAttack named(std::string_view name, const AttackOptions& options) {
  const double published = A{.trigger = {.image = options.image}}.rate;
  A attack{.trigger = {.image = options.image},
           .target = options.target,
           .rate = options.rate.value_or(published),
           .seed = options.seed};
  if constexpr (requires { attack.perturbation; })
    attack.perturbation = Pgd{.model = options.benign, .store = options.store, .show = options.show};
  return {attack, std::string(name)};
}

struct CatalogueEntry {
  std::string_view name;
  AnyAttack (*make)(std::string_view name, const AttackOptions&);
  std::string_view other = {};  ///< a name that it answers to besides
};

inline constexpr std::array catalogue = {
    CatalogueEntry{"BadNets", &named<BadNets<>>},
    CatalogueEntry{"Blended", &named<Blended<>>},
    CatalogueEntry{"WaNet", &named<WaNet<>>},
    CatalogueEntry{"BATT", &named<Batt<>>},
    CatalogueEntry{"Physical", &named<Physical<>>},
    CatalogueEntry{"LabelConsistent", &named<LabelConsistent<>>, "LC"},
    CatalogueEntry{"Adaptive-Patch", &named<AdaptivePatch<>>, "Adaptive"},
    CatalogueEntry{"Benign",
                   [](std::string_view name, const AttackOptions&) -> AnyAttack {
                     return {Benign{}, std::string(name)};
                   }},
};

}  // namespace detail

/// The names that `by_name` knows, as they are written in papers.
inline constexpr auto names() {
  std::array<std::string_view, detail::catalogue.size()> all;
  std::ranges::transform(detail::catalogue, all.begin(), &detail::CatalogueEntry::name);
  return all;
}

namespace detail {

/// \throws Error when no attack has that name
inline const CatalogueEntry& entry(std::string_view name) {
  for (const auto& entry : catalogue) {
    if (same_name(name, entry.name) || same_name(name, entry.other)) return entry;
  }
  throw Error("there is no attack {}; say one of {}", name, fmt::join(names(), ", "));
}

}  // namespace detail

/// A name in any spelling that `by_name` takes, as `names()` has it. \throws Error for an unknown one
inline std::string_view canonical_name(std::string_view name) {
  return detail::entry(name).name;
}

/// An attack of the catalogue; upper and lower case are one, and hyphens and underscores don't count. Its
/// `name` is the one in `names()`; `LC` and `Adaptive` are known too. \throws Error when no attack has that
/// name, or its trigger refuses the image shape
inline AnyAttack by_name(std::string_view name, const AttackOptions& options = {}) {
  const auto& entry = detail::entry(name);
  return entry.make(entry.name, options);
}

}  // namespace refine::attacks
