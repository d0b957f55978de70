#pragma once

#include <refine/data/synthetic.hpp>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>

namespace refine::data {

REFINE_INLINE void Synthetic::validate() const {
  const auto& [channels, height, width] = task.image;
  if (channels < 1 || height < 1 || width < 1 || task.classes < 1) {
    throw Error("synthetic.task must have known, positive extents and classes, got {}x{}x{} and {} classes",
                channels, height, width, task.classes);
  }
  if (train < 0 || test < 0) {
    throw Error("synthetic: train and test must not be negative, got {} and {}", train, test);
  }
}

REFINE_INLINE Split Synthetic::make() const {
  validate();
  return {.train = draw(train, derived_seed(seed, "synthetic train")),
          .test = draw(test, derived_seed(seed, "synthetic test"))};
}

REFINE_INLINE bool Synthetic::contains(int shape, double y, double x) {
  const double distance = std::max(std::abs(y), std::abs(x)), radius = std::hypot(y, x);
  switch (shape) {
    case 0:  // a disc
      return radius <= 1;
    case 1:  // a square
      return distance <= 0.9;
    case 2:  // a ring
      return radius <= 1.1 && radius >= 0.6;
    default:  // a cross
      return distance <= 1.1 && std::min(std::abs(y), std::abs(x)) <= 0.35;
  }
}

REFINE_INLINE Dataset Synthetic::draw(std::int64_t n, std::uint64_t drawing_seed) const {
  const auto [channels, height, width] = task.image;
  Dataset set{.images = at::empty({n, channels, height, width}, at::kByte),
              .labels = at::empty({n}, at::kLong),
              .classes = {}};
  for (int c = 0; c < task.classes; ++c) set.classes.push_back("class " + std::to_string(c));

  Random random(drawing_seed);
  const auto between = [&](double low, double high) { return low + (high - low) * uniform_unit(random); };
  auto* pixel = set.images.mutable_data_ptr<std::uint8_t>();
  auto* label = set.labels.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < n; ++i) {
    const int kind = static_cast<int>(i % task.classes);
    label[i] = kind;
    const double radius = between(0.22, 0.36) * std::min(height, width);
    const double top = between(0.35, 0.65) * height, left = between(0.35, 0.65) * width;
    const double background = between(80, 176);
    for (int channel = 0; channel < channels; ++channel) {
      const double hue = static_cast<double>(kind) / task.classes - static_cast<double>(channel) / channels;
      const double colour = 127.5 + 127.5 * std::cos(2 * std::numbers::pi * hue);
      for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
          const bool is_inside = contains(kind % 4, (y + 0.5 - top) / radius, (x + 0.5 - left) / radius);
          const double value = (is_inside ? colour : background) + between(-28, 28);
          *pixel++ = static_cast<std::uint8_t>(std::clamp(value, 0.0, 255.0));
        }
      }
    }
  }
  return set;
}

}  // namespace refine::data
