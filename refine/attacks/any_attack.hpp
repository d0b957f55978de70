#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <refine/attacks/attack.hpp>
#include <refine/attacks/benign.hpp>
#include <refine/attacks/catalogue.hpp>
#include <refine/core/error.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/core/seed.hpp>

namespace refine::attacks {

/// Any attack, told at run time: `AnyAttack attack = BadNets<task>{.target = 3};`. It meets `Attack` itself.
/// Copies share the attack that they hold, which nothing changes.
class AnyAttack {
 public:
  std::string name;  ///< "BadNets"; empty where none was given
  std::optional<int> target;

  template <Attack A>
  requires(!std::same_as<A, AnyAttack> && std::copy_constructible<A>)
      AnyAttack(A attack, std::string name = {})
      : name(std::move(name)), target(attack.target), held_(std::make_shared<Held<A>>(std::move(attack))) {}

  Poisoned poison(const data::Dataset& clean) const { return held_->poison(clean); }

  at::Tensor trigger_images(const at::Tensor& images) const { return held_->trigger_images(images); }

  /// What `poison` would refuse, without the work, as far as the attack tells it. \throws Error
  void check(const data::Dataset& dataset) const { held_->check(dataset); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual Poisoned poison(const data::Dataset& clean) const = 0;
    virtual at::Tensor trigger_images(const at::Tensor& images) const = 0;
    virtual void check(const data::Dataset& dataset) const = 0;
  };

  template <typename A>
  struct Held final : Interface {
    A attack;

    explicit Held(A attack) : attack(std::move(attack)) {}
    Poisoned poison(const data::Dataset& clean) const override { return attack.poison(clean); }
    at::Tensor trigger_images(const at::Tensor& images) const override {
      return attack.trigger_images(images);
    }
    void check(const data::Dataset& dataset) const override {
      if constexpr (requires { attack.check(dataset); }) attack.check(dataset);
    }
  };

  std::shared_ptr<const Interface> held_;
};

/// What `by_name` tells an attack. The seed is of the choice of images alone: an attack's picture or grid is
/// always the same, so that a later run with another seed still evaluates with the trigger that the victim
/// knows.
struct AttackOptions {
  ImageShape image = {};  ///< of the data; the patch, the picture and the grid need it in full
  int target = 0;
  double rate = 0.1;  ///< share of the training images, in [0, 1]
  std::uint64_t seed = default_seed;
};

namespace detail {

template <typename A>
AnyAttack named(std::string_view name, const AttackOptions& options) {
  const auto& [image, target, rate, seed] = options;
  return {A{.trigger = {.image = image}, .target = target, .rate = rate, .seed = seed}, std::string(name)};
}

struct CatalogueEntry {
  std::string_view name;
  AnyAttack (*make)(std::string_view name, const AttackOptions&);
};

inline constexpr std::array catalogue = {
    CatalogueEntry{"BadNets", &named<BadNets<>>},
    CatalogueEntry{"Blended", &named<Blended<>>},
    CatalogueEntry{"WaNet", &named<WaNet<>>},
    CatalogueEntry{"BATT", &named<Batt<>>},
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

/// An attack of the catalogue; upper and lower case are one. Its `name` is the one in `names()`. \throws
/// Error when no attack has that name, or its trigger refuses the image shape
inline AnyAttack by_name(std::string_view name, const AttackOptions& options = {}) {
  const auto lower = [](char c) { return std::tolower(static_cast<unsigned char>(c)); };
  for (const auto& entry : detail::catalogue) {
    if (std::ranges::equal(name, entry.name, {}, lower, lower)) return entry.make(entry.name, options);
  }
  throw Error("refine: there is no attack {}; say one of {} [attack]", name, fmt::join(names(), ", "));
}

}  // namespace refine::attacks
