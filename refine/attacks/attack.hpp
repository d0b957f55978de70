#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <optional>
#include <vector>

#include <refine/data/training_set.hpp>

namespace refine::attacks {

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

}  // namespace refine::attacks
