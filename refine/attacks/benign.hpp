#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include <refine/attacks/attack.hpp>

namespace refine::attacks {

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

}  // namespace refine::attacks
