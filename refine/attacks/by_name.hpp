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
#include <refine/attacks/pgd.hpp>
#include <refine/attacks/plans.hpp>
#include <refine/attacks/published.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>
#include <refine/triggers/patch.hpp>

namespace refine::attacks {

/// Options of `by_name`.
///
/// The seed is that of the choice of images only. The picture of Blended and the grid of WaNet are
/// always the same, so that a later run with another seed evaluates with the trigger that the
/// victim learnt.
struct AttackOptions {
  ImageShape image = {};  ///< shape of the images; must be fully known except for `Benign`
  int target = 0;         ///< the class that the attacker wants; unused by AllToAll and Benign
  std::optional<int> source = std::nullopt;   ///< as SourceSpecific's `.source`; empty: its default
  std::optional<double> rate = std::nullopt;  ///< as the plan's `.rate`; empty: the attack's default
  std::uint64_t seed = default_seed;          ///< seed of the choice of images
  Surrogate benign = {};  ///< model that LabelConsistent perturbs images against; required to poison
  std::filesystem::path store = {};  ///< file where LabelConsistent keeps perturbed images; empty: none
  bool show = false;                 ///< true: shows progress on standard error if poisoning takes long
};

namespace detail {

template <typename A>
AnyAttack make_attack(std::string_view name, const AttackOptions& options) {
  // Named, since GCC destroys a nested aggregate twice if a later initializer throws.
  const auto trigger = decltype(A::trigger){.image = options.image};
  const double default_rate = A{.trigger = trigger}.rate;
  const double rate = options.rate.value_or(default_rate);  // given at once: others depend on it
  A attack = [&] {
    if constexpr (HasTarget<A>) {
      return A{.trigger = trigger, .target = options.target, .rate = rate, .seed = options.seed};
    } else {
      return A{.trigger = trigger, .rate = rate, .seed = options.seed};
    }
  }();
  if constexpr (requires { attack.source; }) attack.source = options.source.value_or(attack.source);
  if constexpr (requires { attack.perturbation; }) {
    if (attack.perturbation)
      attack.perturbation = Pgd{.model = options.benign, .store = options.store, .show = options.show};
  }
  return {attack, std::string(name)};
}

/// Returns an attack with a patch in each corner, each with its own target.
inline AnyAttack make_multi_target(std::string_view name, const AttackOptions& options) {
  using triggers::Corner;
  MultiTarget<triggers::Patch<>> attack{.target = options.target, .seed = options.seed};
  for (const Corner corner : {Corner::bottom_right, Corner::bottom_left, Corner::top_left, Corner::top_right})
    attack.triggers.push_back({.image = options.image, .corner = corner});
  attack.rate = options.rate.value_or(attack.rate);
  return {attack, std::string(name)};
}

struct CatalogueEntry {
  std::string_view name;
  AnyAttack (*make)(std::string_view name, const AttackOptions&);
  std::string_view alias = {};
};

inline constexpr std::array catalogue = {
    CatalogueEntry{"BadNets", &make_attack<BadNets<>>},
    CatalogueEntry{"Blended", &make_attack<Blended<>>},
    CatalogueEntry{"WaNet", &make_attack<WaNet<>>},
    CatalogueEntry{"BATT", &make_attack<Batt<>>},
    CatalogueEntry{"Physical", &make_attack<Physical<>>},
    CatalogueEntry{"LabelConsistent", &make_attack<LabelConsistent<>>, "LC"},
    CatalogueEntry{"Adaptive-Patch", &make_attack<AdaptivePatch<>>, "Adaptive"},
    CatalogueEntry{"Adaptive-Blend", &make_attack<AdaptiveBlend<>>},
    CatalogueEntry{"SIG", &make_attack<Sig<>>},
    CatalogueEntry{"FTrojan", &make_attack<FTrojan<>>},
    CatalogueEntry{"BPP", &make_attack<Bpp<>>, "BppAttack"},
    CatalogueEntry{"AllToAll", &make_attack<AllToAll<triggers::Patch<>>>},
    CatalogueEntry{"SourceSpecific", &make_attack<SourceSpecific<triggers::Patch<>>>},
    CatalogueEntry{"MultiTarget", &make_multi_target},
    CatalogueEntry{"Benign",
                   [](std::string_view name, const AttackOptions&) -> AnyAttack {
                     return {Benign{}, std::string(name)};
                   }},
};

}  // namespace detail

/// Returns the names that `by_name` knows, spelt as in the papers.
inline constexpr auto names() {
  std::array<std::string_view, detail::catalogue.size()> all;
  std::ranges::transform(detail::catalogue, all.begin(), &detail::CatalogueEntry::name);
  return all;
}

namespace detail {

/// Returns the entry of a name in any spelling; throws an Error for an unknown name.
inline const CatalogueEntry& find_entry(std::string_view name) {
  for (const auto& entry : catalogue) {
    if (text::same_name(name, entry.name) || text::same_name(name, entry.alias)) return entry;
  }
  throw Error("attack: unknown name '{}'; choose one of {}", name, fmt::join(names(), ", "));
}

}  // namespace detail

/// Returns a name as `names()` spells it.
///
/// \param name in any spelling that `by_name` takes
/// \throws Error if no attack has this name
inline std::string_view canonical_name(std::string_view name) {
  return detail::find_entry(name).name;
}

/// Returns the attack of this name. Its `.name` is spelt as in `names()`.
///
/// \param name ignores case, hyphens and underscores; `LC` and `Adaptive` are known too
/// \param options the fields of the attack that a caller may set
/// \throws Error if no attack has this name, or its trigger cannot be made for the image shape
inline AnyAttack by_name(std::string_view name, const AttackOptions& options = {}) {
  const auto& entry = detail::find_entry(name);
  return entry.make(entry.name, options);
}

}  // namespace refine::attacks
