#pragma once

#include <refine/data/augmentation.hpp>

#include <ATen/ops/affine_grid_generator.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/grid_sampler.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/roll.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include <refine/core/config.hpp>
#include <refine/nn/transfer.hpp>

namespace refine::data {

REFINE_INLINE void Augmentation::validate() const {
  if (!(resized_crop_min_scale > 0 && resized_crop_min_scale <= 1)) {
    throw Error("bad augmentation: resized_crop_min_scale is {}; set more than 0, at most 1 (off)",
                resized_crop_min_scale);
  }
  if (crop_padding < 0)
    throw Error("bad augmentation: crop_padding is {}; set 0 (off) or more", crop_padding);
  if (!(grayscale >= 0 && grayscale <= 1)) {
    throw Error("bad augmentation: grayscale is {}; set a share from 0 (off) to 1", grayscale);
  }
  if (!(mix >= 0 && mix <= 1)) throw Error("bad augmentation: mix is {}; set a share from 0 (off) to 1", mix);
  if (!(rotation >= 0 && rotation <= 180))
    throw Error("bad augmentation: rotation is {}; set degrees from 0 (off) to 180", rotation);
  if (!(translate >= 0 && translate <= 1))
    throw Error("bad augmentation: translate is {}; set a share of the side from 0 (off) to 1", translate);
  if (!(scale_min > 0 && scale_max >= scale_min && std::isfinite(scale_max))) {
    throw Error(
        "bad augmentation: scale_min is {} and scale_max {}; set two numbers above 0, the first no larger",
        scale_min, scale_max);
  }
  if (!(brightness >= 0 && brightness <= 1))
    throw Error("bad augmentation: brightness is {}; set a share from 0 (off) to 1", brightness);
}

REFINE_INLINE bool Augmentation::affine() const {
  return rotation > 0 || translate > 0 || scale_min != 1 || scale_max != 1;
}

}  // namespace refine::data

namespace refine::data::detail {

REFINE_INLINE std::int64_t ScopedTorchSeed::below(std::int64_t bound) {
  return static_cast<std::int64_t>(uniform_below(random, static_cast<std::uint64_t>(bound)));
}

REFINE_INLINE CropBox random_resized_box(ScopedTorchSeed& draws, std::int64_t height, std::int64_t width,
                                         double min_scale) {
  constexpr double least = 3.0 / 4, most = 4.0 / 3;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double area = static_cast<double>(height * width) * draws.between(min_scale, 1);
    const double ratio = std::exp(draws.between(std::log(least), std::log(most)));
    const std::int64_t w = std::llround(std::sqrt(area * ratio)), h = std::llround(std::sqrt(area / ratio));
    if (w < 1 || h < 1 || w > width || h > height) continue;
    const std::int64_t top = draws.below(height - h + 1);
    return {top, draws.below(width - w + 1), h, w};
  }
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  std::int64_t w = width, h = height;
  if (ratio < least) h = std::llround(static_cast<double>(w) / least);
  if (ratio > most) w = std::llround(static_cast<double>(h) * most);
  return {(height - h) / 2, (width - w) / 2, h, w};
}

/// Where the pixel `i` of a line of `size` comes from, in the coordinates of `grid_sample` (align_corners
/// false): bilinear stretching of [begin, begin + extent), never looking past its ends.
REFINE_INLINE float grid_position(std::int64_t i, std::int64_t begin, std::int64_t extent,
                                  std::int64_t size) {
  const double ratio = static_cast<double>(extent) / static_cast<double>(size);
  const double within =
      std::clamp((static_cast<double>(i) + 0.5) * ratio - 0.5, 0.0, static_cast<double>(extent - 1));
  return static_cast<float>((2 * (static_cast<double>(begin) + within) + 1) / static_cast<double>(size) - 1);
}

REFINE_INLINE at::Tensor resized_crop(const at::Tensor& images, double min_scale, std::uint64_t seed) {
  const std::int64_t n = images.size(0), height = images.size(2), width = images.size(3);
  at::Tensor rows = at::empty({n, height, 1}, at::kFloat), columns = at::empty({n, 1, width}, at::kFloat);
  auto* y = rows.mutable_data_ptr<float>();
  auto* x = columns.mutable_data_ptr<float>();
  ScopedTorchSeed draws(seed, "resized crop");
  for (std::int64_t i = 0; i < n; ++i) {
    const CropBox box = random_resized_box(draws, height, width, min_scale);
    for (std::int64_t r = 0; r < height; ++r) *y++ = grid_position(r, box.top, box.height, height);
    for (std::int64_t c = 0; c < width; ++c) *x++ = grid_position(c, box.left, box.width, width);
  }
  const auto across = nn::to_device_async(columns, images.device()).expand({n, height, width});
  const auto down = nn::to_device_async(rows, images.device()).expand({n, height, width});
  constexpr std::int64_t bilinear = 0, border = 1;
  return at::grid_sampler(images, at::stack({across, down}, 3).to(images.scalar_type()), bilinear, border,
                          false);
}

/// Padded crop and flip as one gather: row r, column c of an image come from (rows[r], columns[c]) of the
/// padded one.
REFINE_INLINE at::Tensor shifted(const at::Tensor& images, std::int64_t padding, bool flip,
                                 std::uint64_t seed) {
  const std::int64_t n = images.size(0), channels = images.size(1), height = images.size(2),
                     width = images.size(3);
  const std::int64_t padded_width = width + 2 * padding;
  at::Tensor rows = at::empty({n, height, 1}, at::kLong), columns = at::empty({n, 1, width}, at::kLong);
  auto* row = rows.mutable_data_ptr<std::int64_t>();
  auto* column = columns.mutable_data_ptr<std::int64_t>();
  ScopedTorchSeed crops(seed, "crop"), flips(seed, "flip");
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t top = padding > 0 ? crops.below(2 * padding + 1) : 0;
    const std::int64_t left = padding > 0 ? crops.below(2 * padding + 1) : 0;
    const bool to_torchscript = flip && flips.below(2) == 1;
    for (std::int64_t r = 0; r < height; ++r) *row++ = (top + r) * padded_width;
    for (std::int64_t c = 0; c < width; ++c) *column++ = left + (to_torchscript ? width - 1 - c : c);
  }
  const auto from = nn::to_device_async(rows, images.device())
                        .add(nn::to_device_async(columns, images.device()))
                        .view({n, 1, height * width});
  const auto padded =
      padding > 0 ? at::constant_pad_nd(images, {padding, padding, padding, padding}) : images;
  return at::gather(padded.contiguous().flatten(2), 2, from.expand({n, channels, height * width}))
      .view({n, channels, height, width});
}

/// Each image times its factor, as torchvision's `ColorJitter` does it.
REFINE_INLINE at::Tensor brightened(const at::Tensor& images, double most, std::uint64_t seed) {
  at::Tensor factors = at::empty({images.size(0), 1, 1, 1}, at::kFloat);
  auto* factor = factors.mutable_data_ptr<float>();
  ScopedTorchSeed draws(seed, "brightness");
  for (std::int64_t i = 0; i < images.size(0); ++i)
    factor[i] = static_cast<float>(draws.between(1 - most, 1 + most));
  return images.mul(nn::to_device_async(factors.to(images.scalar_type()), images.device())).clamp_(0, 1);
}

REFINE_INLINE Move random_move(ScopedTorchSeed& draws, const Augmentation& how, std::int64_t height,
                               std::int64_t width) {
  const double across = how.translate * static_cast<double>(width),
               along = how.translate * static_cast<double>(height);
  Move move;
  move.degrees = draws.between(-how.rotation, how.rotation);
  move.right = std::llrint(draws.between(-across, across));
  move.down = std::llrint(draws.between(-along, along));
  move.scale = draws.between(how.scale_min, how.scale_max);
  return move;
}

REFINE_INLINE at::Tensor moved(const at::Tensor& images, const std::vector<Move>& moves) {
  const std::int64_t n = images.size(0), height = images.size(2), width = images.size(3);
  const double h = static_cast<double>(height), w = static_cast<double>(width);
  at::Tensor back = at::empty({n, 2, 3}, at::kFloat);  // from a pixel to its source, both axes from -1 to 1
  auto* to = back.mutable_data_ptr<float>();
  for (const Move& move : moves) {
    const double angle = move.degrees * std::numbers::pi / 180, cosine = std::cos(angle) / move.scale,
                 sine = std::sin(angle) / move.scale;
    const double right = static_cast<double>(move.right), down = static_cast<double>(move.down);
    for (const double value : {cosine, sine * h / w, -2 / w * (cosine * right + sine * down),  //
                               -sine * w / h, cosine, -2 / h * (cosine * down - sine * right)}) {
      *to++ = static_cast<float>(value);
    }
  }
  const at::Tensor grid = at::affine_grid_generator(back, {n, 1, height, width}, /*align_corners=*/false);
  constexpr std::int64_t nearest = 1, zeros = 0;
  return at::grid_sampler(images, nn::to_device_async(grid.to(images.scalar_type()), images.device()),
                          nearest, zeros,
                          /*align_corners=*/false);
}

REFINE_INLINE at::Tensor randomly_moved(const at::Tensor& images, const Augmentation& how,
                                        std::uint64_t seed) {
  ScopedTorchSeed draws(seed, "affine");
  std::vector<Move> moves;
  for (std::int64_t i = 0; i < images.size(0); ++i)
    moves.push_back(random_move(draws, how, images.size(2), images.size(3)));
  return moved(images, moves);
}

REFINE_INLINE at::Tensor grayed(const at::Tensor& images, double share, std::uint64_t seed) {
  const std::int64_t n = images.size(0);
  at::Tensor chosen = at::empty({n, 1, 1, 1}, at::kBool);
  auto* grey = chosen.mutable_data_ptr<bool>();
  ScopedTorchSeed draws(seed, "grayscale");
  for (std::int64_t i = 0; i < n; ++i) grey[i] = draws.between(0, 1) < share;
  const auto channel = [&](std::int64_t c) { return images.narrow(1, c, 1); };
  const auto luma = channel(0).mul(0.2989).add_(channel(1).mul(0.587)).add_(channel(2).mul(0.114));
  return at::where(nn::to_device_async(chosen, images.device()), luma, images);
}

REFINE_INLINE at::Tensor mixed(const at::Tensor& images, double share, std::uint64_t seed) {
  const std::int64_t n = images.size(0);
  std::vector<std::int64_t> each(static_cast<std::size_t>(images.dim()), 1);
  each.front() = n;
  at::Tensor own = at::empty(each, at::kFloat);
  auto* weight = own.mutable_data_ptr<float>();
  ScopedTorchSeed chosen(seed, "mixed or not"), weights(seed, "mix");
  for (std::int64_t i = 0; i < n; ++i) {
    const double drawn = weights.between(0.5, 1);
    weight[i] = chosen.between(0, 1) < share ? static_cast<float>(drawn) : 1.0f;
  }
  return at::lerp(at::roll(images, 1, 0), images,
                  nn::to_device_async(own.to(images.scalar_type()), images.device()));
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_INLINE at::Tensor augment(const at::Tensor& images, const Augmentation& augmentation,
                                 std::uint64_t seed) {
  augmentation.validate();
  const auto& how = augmentation;
  if (how.grayscale > 0 && images.size(1) != 3) {
    throw Error("cannot turn images of {} channels grey: it takes RGB; set grayscale to 0", images.size(1));
  }
  if (images.size(0) == 0) return images;
  at::Tensor changed = images;
  if (how.resized_crop_min_scale < 1)
    changed = detail::resized_crop(changed, how.resized_crop_min_scale, seed);
  if (how.crop_padding > 0 || how.flip) changed = detail::shifted(changed, how.crop_padding, how.flip, seed);
  if (how.brightness > 0) changed = detail::brightened(changed, how.brightness, seed);
  if (how.affine()) changed = detail::randomly_moved(changed, how, seed);
  if (how.grayscale > 0) changed = detail::grayed(changed, how.grayscale, seed);
  if (how.mix > 0 && images.size(0) > 1) changed = detail::mixed(changed, how.mix, seed);
  return changed.contiguous(images.suggest_memory_format());
}

REFINE_INLINE at::Tensor mix_rows(const at::Tensor& rows, const Augmentation& augmentation,
                                  std::uint64_t seed) {
  return augmentation.mix > 0 && rows.size(0) > 1 ? detail::mixed(rows, augmentation.mix, seed) : rows;
}

}  // namespace refine::data
