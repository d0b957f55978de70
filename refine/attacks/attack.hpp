#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/data/augmentation.hpp>
#include <refine/data/training_set.hpp>

namespace refine::attacks {

/// What an attack asks of the victim's training: how images are changed besides, anew in every epoch, whether
/// that holds for poisoned images too, and whether those may be to_torchscript.
struct TrainingAugmentation {
  enum class Of { every_image, clean_images };

  data::Augmentation augmentation = {};
  Of of = Of::every_image;
  bool flip_stamped = true;  ///< false: the flip of the victim's recipe leaves poisoned images on their side
};

/// The published ones.
namespace demands {

/// The null policy.
inline constexpr TrainingAugmentation none = {};

/// What a camera does to a printed trigger (Li et al., 2021, `li2021physical`).
inline constexpr TrainingAugmentation physical = {.augmentation = {.flip = true,
                                                                   .rotation = 10,
                                                                   .translate = 0.1,
                                                                   .scale_min = 0.8,
                                                                   .scale_max = 0.9,
                                                                   .brightness = 0.1}};

/// Clean images turn a little, so that only the trigger's turn means the target, and that is one way round:
/// the mirror of a turned image is turned the other way (Xu et al., 2023, `xu2023batt`).
inline constexpr TrainingAugmentation batt = {
    .augmentation = {.rotation = 10}, .of = TrainingAugmentation::Of::clean_images, .flip_stamped = false};

}  // namespace demands

/// A training set after an attack: the data, what the attack asks of training (`train_classifier` sees to
/// it), and which images were touched.
struct Poisoned : data::TrainingSet {
  std::vector<std::int64_t> indices = {};  ///< those that teach the trigger; ascending
  std::vector<std::int64_t> covers = {};   ///< those that were stamped and keep their label; ascending
};

/// Who gets stamped, and what happens to the label. For `a` of type `A`:
///
///  1. `a.target` is the class that the attacker wants (`std::optional<int>`, or an `int`);
///  2. `a.poison(dataset)` returns the `Poisoned` training set;
///  3. `a.trigger_images(images)` puts the test-time trigger on uint8 N×C×H×W.
template <typename A>
concept Attack = requires(const A& a, const data::Dataset& dataset, const at::Tensor& images) {
  { a.target } -> std::convertible_to<std::optional<int>>;
  { a.poison(dataset) } -> std::convertible_to<Poisoned>;
  { a.trigger_images(images) } -> std::same_as<at::Tensor>;
};

/// The null attack: nothing is poisoned, no class is wanted, test images stay as they are. Its victim is the
/// zero point of every figure.
struct Benign {
  static constexpr std::optional<int> target = std::nullopt;

  /// The images and labels as they are, shared with `clean`. \throws Error when `clean` does not fit together
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    return {{clean}};
  }

  at::Tensor trigger_images(const at::Tensor& images) const { return images; }

  void check(const data::Dataset& dataset) const { dataset.validate(); }
};

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
