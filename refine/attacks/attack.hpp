#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/detail/erased.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/training_set.hpp>

namespace refine::attacks {

/// Extra augmentation that an attack requires when the victim is trained, drawn anew in every
/// epoch.
struct TrainingAugmentation {
  /// The images that are augmented.
  enum class Scope {
    every_image,   ///< clean and poisoned ones
    clean_images,  ///< all but the poisoned ones
  };

  data::Augmentation augmentation = {};  ///< applied after the augmentation of the victim's recipe
  Scope scope = Scope::every_image;      ///< the images that it is applied to
  bool flip_poisoned = true;             ///< false: the recipe's flip leaves poisoned images unflipped
};

/// The training augmentations of published attacks.
namespace training_augmentations {

/// Requires nothing.
inline constexpr TrainingAugmentation none = {};

/// What a camera does to a printed trigger (Li et al., 2021, `li2021physical`).
inline constexpr TrainingAugmentation physical = {.augmentation = {.flip = true,
                                                                   .rotation = 10,
                                                                   .translate = 0.1,
                                                                   .scale_min = 0.8,
                                                                   .scale_max = 0.9,
                                                                   .brightness = 0.1}};

/// Rotates clean images a little, so that only the trigger's angle means the target (Xu et al.,
/// 2023, `xu2023batt`). Poisoned images are not flipped: the mirror image of a rotated image is
/// rotated the other way, which is not the trigger.
inline constexpr TrainingAugmentation batt = {.augmentation = {.rotation = 10},
                                              .scope = TrainingAugmentation::Scope::clean_images,
                                              .flip_poisoned = false};

}  // namespace training_augmentations

/// A training set after an attack: the data, the augmentation that the attack requires
/// (`train_classifier` applies it), and the images that were changed.
struct Poisoned : data::TrainingSet {
  std::vector<std::int64_t> indices = {};  ///< positions of the images that teach the trigger; ascending
  std::vector<std::int64_t> covers = {};   ///< positions of stamped images that keep their label; ascending
};

/// A backdoor attack by poisoning: which images get a trigger, and what happens to their labels.
/// For `a` of type `A`:
///
///  1. `a.target` is the class that the attacker wants (`std::optional<int>`, or an `int`);
///  2. `a.poison(dataset)` returns the `Poisoned` training set;
///  3. `a.trigger_images(images)` puts the test-time trigger on uint8 N×C×H×W.
///
/// Optional: `a.check(dataset)` throws what `a.poison(dataset)` would throw, without the work.
template <typename A>
concept Attack = requires(const A& a, const data::Dataset& dataset, const at::Tensor& images) {
  { a.target } -> std::convertible_to<std::optional<int>>;
  { a.poison(dataset) } -> std::convertible_to<Poisoned>;
  { a.trigger_images(images) } -> std::same_as<at::Tensor>;
};

/// The attack that does nothing: no image is poisoned, and test images stay unchanged. Its victim
/// is the zero point that every metric is compared with.
struct Benign {
  static constexpr std::optional<int> target = std::nullopt;  ///< no class

  /// Returns the images and labels unchanged; they share memory with `clean`.
  ///
  /// \param clean the training set
  /// \throws Error if the set's fields are inconsistent
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    return {{clean}};
  }

  /// Would drop the augmentation and the masks of a set that is poisoned already.
  template <std::derived_from<data::TrainingSet> S>
  Poisoned poison(const S& training_set) const = delete;

  /// Returns the images unchanged.
  at::Tensor trigger_images(const at::Tensor& images) const { return images; }

  /// \throws Error if the set's fields are inconsistent
  void check(const data::Dataset& dataset) const { dataset.validate(); }
};

/// Holds any attack, for a choice at run time: `AnyAttack attack = BadNets<task>{.target = 3};`. It
/// models `Attack` itself. Copies share the attack that they hold, which is never modified.
class AnyAttack {
 public:
  std::string name;           ///< "BadNets", for example; empty if none was given
  std::optional<int> target;  ///< the class that the attacker wants

  /// Holds `attack`.
  ///
  /// \tparam A type of the attack
  /// \param attack any other attack
  /// \param report_name the value of `name`
  template <Attack A>
  requires(refine::detail::OtherThan<A, AnyAttack>&& std::copy_constructible<A>)
      AnyAttack(A attack, std::string report_name = {})
      : name(std::move(report_name)),
        target(attack.target),
        held_(refine::detail::Erased<Interface>::template with<Model<A>>(std::move(attack))) {}

  /// Returns the poisoned training set of the held attack.
  Poisoned poison(const data::Dataset& clean) const { return held_->poison(clean); }

  /// Would drop the augmentation and the masks of a set that is poisoned already.
  template <std::derived_from<data::TrainingSet> S>
  Poisoned poison(const S& training_set) const = delete;

  /// Returns the images with the test-time trigger of the held attack.
  at::Tensor trigger_images(const at::Tensor& images) const { return held_->trigger_images(images); }

  /// Throws what `poison` would throw, without the work. Does nothing if the held attack has no
  /// `check`.
  void check(const data::Dataset& dataset) const { held_->check(dataset); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual Poisoned poison(const data::Dataset& clean) const = 0;
    virtual at::Tensor trigger_images(const at::Tensor& images) const = 0;
    virtual void check(const data::Dataset& dataset) const = 0;
  };

  template <typename A>
  struct Model final : Interface {
    explicit Model(A a) : attack(std::move(a)) {}

    Poisoned poison(const data::Dataset& clean) const override { return attack.poison(clean); }
    at::Tensor trigger_images(const at::Tensor& images) const override {
      return attack.trigger_images(images);
    }
    void check(const data::Dataset& dataset) const override {
      if constexpr (requires { attack.check(dataset); }) attack.check(dataset);
    }

    A attack;
  };

  refine::detail::Erased<Interface> held_;
};

}  // namespace refine::attacks
