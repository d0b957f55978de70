#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <optional>
#include <vector>

#include <refine/data/dataset.hpp>

namespace refine::attacks {

/// A training set after an attack: the data, and which images were touched (ascending).
struct Poisoned : data::Dataset {
  std::vector<std::int64_t> indices;
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

}  // namespace refine::attacks
