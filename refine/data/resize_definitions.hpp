#pragma once

// What resize.hpp declares.

#include <refine/data/resize.hpp>

#include <ATen/ops/_upsample_bilinear2d_aa.h>

#include <algorithm>
#include <cstdint>

#include <refine/core/compiled.hpp>

namespace refine::data::detail {

REFINE_DEFINITION void check_sizes(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  if (images.dim() != 4 || images.size(1) < 1 || images.size(2) < 1 || images.size(3) < 1) {
    throw Error("cannot resize a tensor of {} dimensions or without pixels; give images as N×C×H×W",
                images.dim());
  }
  if (height < 1 || width < 1) {
    throw Error("cannot resize images to {} x {} pixels; ask for 1 x 1 or more", width, height);
  }
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_DEFINITION at::Tensor resized(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  detail::check_sizes(images, height, width);
  if (images.size(0) == 0) return images.new_empty({0, images.size(1), height, width});
  if (images.size(2) == height && images.size(3) == width) return images;
  return at::_upsample_bilinear2d_aa(images, {height, width}, /*align_corners=*/false);
}

REFINE_DEFINITION at::Tensor fitted(const at::Tensor& images, Fit fit, std::int64_t height,
                                    std::int64_t width) {
  detail::check_sizes(images, height, width);
  const std::int64_t h = images.size(2), w = images.size(3);
  if (fit == Fit::exact && (h != height || w != width)) {
    throw Error("images of {} x {} pixels are not {} x {}; resize them (Fit::crop or Fit::stretch)", w, h,
                width, height);
  }
  if (fit.kind != Fit::Kind::crop) return resized(images, height, width);
  const auto begin = [](std::int64_t spare) { return spare / 2 + (spare % 2) * (spare / 2 % 2); };
  const auto middle = [&](const at::Tensor& larger) {
    return larger.narrow(2, begin(larger.size(2) - height), height)
        .narrow(3, begin(larger.size(3) - width), width);
  };
  if (const std::int64_t side = fit.shorter_side; side != 0) {
    if (side < std::max(height, width)) {
      throw Error("cannot crop {} x {} pixels from images resized to {}; resize them to {} or more", width,
                  height, side, std::max(height, width));
    }
    return middle(h <= w ? resized(images, side, side * w / h) : resized(images, side * h / w, side));
  }
  const bool by_height = height * w >= width * h;  // the side that decides: the other one has some to spare
  const at::Tensor covering =
      by_height ? resized(images, height, height * w / h) : resized(images, width * h / w, width);
  return middle(covering);
}

}  // namespace refine::data
