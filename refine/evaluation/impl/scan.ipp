#pragma once

#include <refine/evaluation/scan.hpp>

#include <ATen/ops/full.h>
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include <refine/core/config.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/rotate.hpp>
#include <refine/triggers/warp.hpp>

namespace refine {

REFINE_INLINE std::vector<NamedTrigger> scan_catalogue(const ImageShape& image, std::uint64_t seed) {
  using triggers::Corner;
  std::vector<NamedTrigger> catalogue;
  const int size = triggers::Patch<>{.image = image}.size;
  const auto square = [&](int side, float shade) {
    return at::full({image.channels, side, side}, shade, at::kFloat);
  };
  const auto name = [](const char* kind, int side, const char* corner) {
    return fmt::format("{} {}×{}, {}", kind, side, side, corner);
  };
  constexpr std::pair<Corner, const char*> corners[] = {{Corner::bottom_right, "bottom right"},
                                                        {Corner::bottom_left, "bottom left"},
                                                        {Corner::top_right, "top right"},
                                                        {Corner::top_left, "top left"}};
  for (const auto& [corner, where] : corners) {
    catalogue.push_back(
        {name("checkerboard", size, where), triggers::Patch<>{.image = image, .corner = corner}});
  }
  catalogue.push_back({name("white square", size, "bottom right"),
                       triggers::Patch<>{.image = image, .pattern = square(size, 1)}});
  catalogue.push_back(
      {name("white square", size, "top left"),
       triggers::Patch<>{.image = image, .corner = Corner::top_left, .pattern = square(size, 1)}});
  catalogue.push_back({name("black square", size, "bottom right"),
                       triggers::Patch<>{.image = image, .pattern = square(size, 0)}});
  if (const int large = 2 * size; large <= std::min(image.height, image.width)) {
    catalogue.push_back(
        {name("checkerboard", large, "bottom right"), triggers::Patch<>{.image = image, .size = large}});
  }
  for (const double opacity : {0.1, 0.2}) {
    catalogue.push_back({fmt::format("noise over the image, {:.0f} %", 100 * opacity),
                         triggers::Blend<>{.image = image, .opacity = opacity, .seed = seed}, false});
  }
  for (const double strength : {0.5, 1.0}) {
    if (std::min(image.height, image.width) < 4) break;  // fewer pixels than the warp has control points
    catalogue.push_back({fmt::format("warp, strength {}", strength),
                         triggers::Warp<>{.image = image, .strength = strength, .seed = seed}, false});
  }
  for (const double degrees : {16.0, -16.0}) {
    catalogue.push_back({fmt::format("rotation, {}{:.0f}°", degrees < 0 ? "−" : "", std::abs(degrees)),
                         triggers::Rotate<>{.image = image, .degrees = degrees}, false});
  }
  return catalogue;
}

}  // namespace refine
