#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>

namespace refine::metrics {

/// The class that an attack wants triggered images to be predicted as: one class for all images,
/// one for each class of images, or none.
///
/// ```cpp
/// const Target none, one = 3;                                 // std::optional<int> converts, too
/// const Target all_to_all = Target::of_classes({1, 2, 0});    // images of class 2 become class 0
/// ```
class Target {
 public:
  /// No target.
  Target() = default;

  /// One target for the images of all classes, or none. Implicit, so that `.target = 3` works.
  Target(std::optional<int> all) : all_(all) {}

  /// No target.
  Target(std::nullopt_t) {}

  /// One target for the images of all classes.
  Target(int all) : all_(all) {}

  /// Makes a target that depends on the class of the image.
  ///
  /// \param targets one entry per class; empty where the attacker wants nothing of the class. If all
  ///   are equal, the result equals the target of all images.
  static Target of_classes(std::vector<std::optional<int>> targets) {
    Target result;
    if (targets.empty()) return result;
    if (std::ranges::all_of(targets, [&](const auto& target) { return target == targets.front(); })) {
      result.all_ = targets.front();
    } else {
      result.of_class_ = std::move(targets);
    }
    return result;
  }

  /// Returns the class that triggered images of class `cls` are wanted to be predicted as.
  ///
  /// \param cls at least 0, and below the number of classes
  std::optional<int> of(int cls) const {
    return of_class_.empty() ? all_ : of_class_[static_cast<std::size_t>(cls)];
  }

  /// True if the attack moves images of this class: their target is another class.
  bool moves(int cls) const { return of(cls).value_or(cls) != cls; }

  /// True if images of this class are where the attacker wants them without a trigger.
  bool is_at(int cls) const { return of(cls) == cls; }

  /// True if any class has a target.
  explicit operator bool() const { return all_ || !of_class_.empty(); }

  /// Returns the target of all images; empty if there is none or it depends on the class.
  std::optional<int> single() const { return all_; }

  /// Returns the targets, one per class; empty if `single()` says all.
  const std::vector<std::optional<int>>& by_class() const { return of_class_; }

  /// Throws unless the target fits the number of classes.
  ///
  /// \throws Error if a target is not in [0, classes), or their number is not that of the classes
  void require_valid(int classes) const {
    if (!of_class_.empty() && of_class_.size() != static_cast<std::size_t>(classes)) {
      throw Error("attack's targets: wrong number (got {}, expected {}); give one per class",
                  of_class_.size(), classes);
    }
    const auto check = [&](std::optional<int> target) {
      if (!target || (*target >= 0 && *target < classes)) return;
      throw Error("attack's target: class is out of range (got {}, expected 0 to {}); check the target",
                  *target, classes - 1);
    };
    check(all_);
    for (const auto& target : of_class_) check(target);
  }

  /// True if all classes have the same target.
  friend bool operator==(const Target&, const Target&) = default;

 private:
  std::optional<int> all_ = std::nullopt;
  std::vector<std::optional<int>> of_class_ = {};  ///< empty: `all_`
};

}  // namespace refine::metrics
