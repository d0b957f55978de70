#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <concepts>

#include <refine/core/task.hpp>

namespace refine {

/// A victim behind its defense, whether built here (`Pipeline`) or read from an exported file (`Served`). For
/// `d` of type `D` and float images N×C×H×W in [0, 1]:
///
///  1. `d.task()` is its `Task`, `d.device()` where it computes;
///  2. `d.forward(images)`: defended logits, N×classes;
///  3. `d.undefended(images)`: the victim's own logits, N×classes;
///  4. `d.transformed(images)`: the images that the victim sees, N×C×H×W in [0, 1];
///  5. `d.alarm(images)`: N scores in [0, 1], see `alarm_score`.
template <typename D>
concept DefendedClassifier = requires(const D& d, const at::Tensor& images) {
  { d.task() } -> std::convertible_to<Task>;
  { d.device() } -> std::convertible_to<at::Device>;
  { d.forward(images) } -> std::same_as<at::Tensor>;
  { d.undefended(images) } -> std::same_as<at::Tensor>;
  { d.transformed(images) } -> std::same_as<at::Tensor>;
  { d.alarm(images) } -> std::same_as<at::Tensor>;
};

}  // namespace refine
