#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <refine/attacks/attack.hpp>

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

}  // namespace refine::attacks
