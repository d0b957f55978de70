#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/detail/erased.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/training_set.hpp>
#include <refine/metrics/target.hpp>

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

namespace detail {

/// One target for all images.
template <typename A>
concept HasTarget = requires(const A& a) {
  { a.target } -> std::convertible_to<std::optional<int>>;
};

/// A target that depends on the class. Takes precedence over `target`.
template <typename A>
concept HasTargetOf = requires(const A& a) {
  { a.target_of(0, 1) } -> std::convertible_to<std::optional<int>>;
};

template <typename A>
concept TargetOfFits = !REFINE_DECLARES(A, target_of, target_of(0, 1)) || HasTargetOf<A>;

template <typename A>
concept KnowsTarget = TargetOfFits<A> &&(HasTarget<A> || HasTargetOf<A>);

template <typename A>
concept AttackCheckFits = !REFINE_DECLARES(A, check, check(std::declval<const data::Dataset&>())) ||
                          requires(const A& a, const data::Dataset& dataset) {
  a.check(dataset);
};

}  // namespace detail

/// A backdoor attack by poisoning: which images get a trigger, and what happens to their labels.
/// For `a` of type `A`:
///
///  1. `a.target` is the class that the attacker wants (`std::optional<int>`, or an `int`); or, if it
///     depends on the class of the image, `a.target_of(cls, classes)` returns it as
///     `std::optional<int>`: empty where the attacker wants nothing of class `cls`;
///  2. `a.poison(dataset)` returns the `Poisoned` training set;
///  3. `a.trigger_images(images)` returns uint8 N×C×H×W with the test-time trigger.
///
/// Neither changes its argument. Copies of a `Dataset` share their pixels: an attack that writes to images takes
/// `data::copy_on_write(dataset.images)`, and one that changes labels `dataset.labels.clone()`.
///
/// Optional: `a.check(dataset)` throws what `a.poison(dataset)` would throw, without the work.
///
/// All of these can be called on a constant object. A type with a `target_of` or `check` that cannot be called so is not an
/// `Attack`.
template <typename A>
concept Attack = detail::KnowsTarget<A> && detail::AttackCheckFits<A> &&
    requires(const A& a, const data::Dataset& dataset, const at::Tensor& images) {
  { a.poison(dataset) } -> std::convertible_to<Poisoned>;
  { a.trigger_images(images) } -> std::same_as<at::Tensor>;
};

/// Returns the class that the attacker wants triggered images of class `cls` to be predicted as.
///
/// \param attack any attack
/// \param cls class of the image, in [0, classes)
/// \param classes number of classes
/// \return empty if the attacker wants nothing of the class
template <Attack A>
std::optional<int> target_of(const A& attack, int cls, int classes) {
  if constexpr (detail::HasTargetOf<A>) {
    return attack.target_of(cls, classes);
  } else {
    return attack.target;
  }
}

/// Returns the targets of all classes, as `metrics::attack_metrics` takes them.
///
/// \param attack any attack
/// \param classes number of classes
template <Attack A>
metrics::Target target_map(const A& attack, int classes) {
  std::vector<std::optional<int>> targets;
  for (int c = 0; c < classes; ++c) targets.push_back(target_of(attack, c, classes));
  return metrics::Target::of_classes(std::move(targets));
}

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
  std::string name;  ///< "BadNets", for example; empty if none was given

  /// Holds `attack`.
  ///
  /// \tparam A type of the attack
  /// \param attack any other attack
  /// \param report_name the value of `name`
  template <Attack A>
  requires(refine::detail::OtherThan<A, AnyAttack>&& std::copy_constructible<A>)
      AnyAttack(A attack, std::string report_name = {})
      : name(std::move(report_name)),
        held_(refine::detail::Erased<Interface>::template with<Model<A>>(std::move(attack))) {}

  /// Returns the class that the held attack wants triggered images of a class to be predicted as.
  ///
  /// \param cls class of the image, in [0, classes)
  /// \param classes number of classes
  std::optional<int> target_of(int cls, int classes) const { return held_->target_of(cls, classes); }

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
    virtual std::optional<int> target_of(int cls, int classes) const = 0;
    virtual Poisoned poison(const data::Dataset& clean) const = 0;
    virtual at::Tensor trigger_images(const at::Tensor& images) const = 0;
    virtual void check(const data::Dataset& dataset) const = 0;
  };

  template <typename A>
  struct Model final : Interface {
    explicit Model(A a) : attack(std::move(a)) {}

    std::optional<int> target_of(int cls, int classes) const override {
      return attacks::target_of(attack, cls, classes);
    }
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
