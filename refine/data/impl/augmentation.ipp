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
#include <refine/core/error.hpp>
#include <refine/data/detail/random_changes.hpp>
#include <refine/nn/transfer.hpp>

namespace refine::data {

REFINE_INLINE void Augmentation::validate() const {
  const auto check = [](bool valid, const char* field, double value, const char* range) {
    if (!valid) throw Error("augmentation.{} must be {}, got {}", field, range, value);
  };
  check(resized_crop_min_scale > 0 && resized_crop_min_scale <= 1, "resized_crop_min_scale",
        resized_crop_min_scale, "above 0 and at most 1 (off)");
  check(crop_padding >= 0, "crop_padding", crop_padding, "at least 0 (off)");
  check(grayscale >= 0 && grayscale <= 1, "grayscale", grayscale, "a share from 0 (off) to 1");
  check(mix >= 0 && mix <= 1, "mix", mix, "a share from 0 (off) to 1");
  check(rotation >= 0 && rotation <= 180, "rotation", rotation, "degrees from 0 (off) to 180");
  check(translate >= 0 && translate <= 1, "translate", translate, "a share of the side from 0 (off) to 1");
  if (!(scale_min > 0 && scale_max >= scale_min && std::isfinite(scale_max))) {
    throw Error(
        "augmentation: scale_min and scale_max must be positive and in ascending order, got {} and {}",
        scale_min, scale_max);
  }
  check(brightness >= 0 && brightness <= 1, "brightness", brightness, "a share from 0 (off) to 1");
}

REFINE_INLINE bool Augmentation::has_affine() const {
  return rotation > 0 || translate > 0 || scale_min != 1 || scale_max != 1;
}

}  // namespace refine::data

namespace refine::data::detail {

REFINE_INLINE std::int64_t RandomStream::below(std::int64_t bound) {
  return static_cast<std::int64_t>(uniform_below(random, static_cast<std::uint64_t>(bound)));
}

REFINE_INLINE CropBox random_resized_box(RandomStream& random, std::int64_t height, std::int64_t width,
                                         double min_scale) {
  constexpr double min_ratio = 3.0 / 4, max_ratio = 4.0 / 3;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double area = static_cast<double>(height * width) * random.between(min_scale, 1);
    const double ratio = std::exp(random.between(std::log(min_ratio), std::log(max_ratio)));
    const std::int64_t w = std::llround(std::sqrt(area * ratio)), h = std::llround(std::sqrt(area / ratio));
    if (w < 1 || h < 1 || w > width || h > height) continue;
    const std::int64_t top = random.below(height - h + 1);
    return {top, random.below(width - w + 1), h, w};
  }
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  std::int64_t w = width, h = height;
  if (ratio < min_ratio) h = std::llround(static_cast<double>(w) / min_ratio);
  if (ratio > max_ratio) w = std::llround(static_cast<double>(h) * max_ratio);
  return {(height - h) / 2, (width - w) / 2, h, w};
}

/// Returns the source of pixel `i` of a line, in the coordinates of `grid_sample` (align_corners
/// false), when [begin, begin + extent) is stretched to the whole line. Never samples beyond the
/// ends of that interval.
REFINE_INLINE float grid_position(std::int64_t i, std::int64_t begin, std::int64_t extent,
                                  std::int64_t size) {
  const double ratio = static_cast<double>(extent) / static_cast<double>(size);
  const double within =
      std::clamp((static_cast<double>(i) + 0.5) * ratio - 0.5, 0.0, static_cast<double>(extent - 1));
  return static_cast<float>((2 * (static_cast<double>(begin) + within) + 1) / static_cast<double>(size) - 1);
}

/// Takes the rows of a part from draws for the whole batch.
inline at::Tensor draws_of(const BatchRows& rows, const at::Tensor& draws) {
  return rows.positions.defined() ? draws.index_select(0, rows.positions) : draws;
}

REFINE_INLINE at::Tensor resized_crop(const at::Tensor& images, double min_scale, std::uint64_t seed,
                                      const BatchRows& part) {
  const std::int64_t n = part.total, height = images.size(2), width = images.size(3);
  at::Tensor rows = at::empty({n, height, 1}, at::kFloat), columns = at::empty({n, 1, width}, at::kFloat);
  auto* y = rows.mutable_data_ptr<float>();
  auto* x = columns.mutable_data_ptr<float>();
  RandomStream random(seed, "resized crop");
  for (std::int64_t i = 0; i < n; ++i) {
    const CropBox box = random_resized_box(random, height, width, min_scale);
    for (std::int64_t r = 0; r < height; ++r) *y++ = grid_position(r, box.top, box.height, height);
    for (std::int64_t c = 0; c < width; ++c) *x++ = grid_position(c, box.left, box.width, width);
  }
  const auto across =
      nn::to_device_async(draws_of(part, columns), images.device()).expand({images.size(0), height, width});
  const auto down =
      nn::to_device_async(draws_of(part, rows), images.device()).expand({images.size(0), height, width});
  constexpr std::int64_t bilinear = 0, border = 1;
  return at::grid_sampler(images, at::stack({across, down}, 3).to(images.scalar_type()), bilinear, border,
                          false);
}

/// Crops the padded image and flips it, as one gather: row r, column c of an image come from
/// (rows[r], columns[c]) of the padded one.
REFINE_INLINE at::Tensor crop_and_flip(const at::Tensor& images, std::int64_t padding, bool flip,
                                       std::uint64_t seed, const BatchRows& part) {
  const std::int64_t n = part.total, channels = images.size(1), height = images.size(2),
                     width = images.size(3);
  const std::int64_t padded_width = width + 2 * padding;
  at::Tensor rows = at::empty({n, height, 1}, at::kLong), columns = at::empty({n, 1, width}, at::kLong);
  auto* row = rows.mutable_data_ptr<std::int64_t>();
  auto* column = columns.mutable_data_ptr<std::int64_t>();
  RandomStream crops(seed, "crop"), flips(seed, "flip");
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t top = padding > 0 ? crops.below(2 * padding + 1) : 0;
    const std::int64_t left = padding > 0 ? crops.below(2 * padding + 1) : 0;
    const bool mirror = flip && flips.below(2) == 1;
    for (std::int64_t r = 0; r < height; ++r) *row++ = (top + r) * padded_width;
    for (std::int64_t c = 0; c < width; ++c) *column++ = left + (mirror ? width - 1 - c : c);
  }
  const auto source = nn::to_device_async(draws_of(part, rows), images.device())
                          .add(nn::to_device_async(draws_of(part, columns), images.device()))
                          .view({images.size(0), 1, height * width});
  const auto padded =
      padding > 0 ? at::constant_pad_nd(images, {padding, padding, padding, padding}) : images;
  return at::gather(padded.contiguous().flatten(2), 2,
                    source.expand({images.size(0), channels, height * width}))
      .view({images.size(0), channels, height, width});
}

/// Multiplies each image by a random factor from 1 − `range` to 1 + `range`, as torchvision's
/// `ColorJitter` does.
REFINE_INLINE at::Tensor random_brightness(const at::Tensor& images, double range, std::uint64_t seed,
                                           const BatchRows& part) {
  at::Tensor factors = at::empty({part.total, 1, 1, 1}, at::kFloat);
  auto* factor = factors.mutable_data_ptr<float>();
  RandomStream random(seed, "brightness");
  for (std::int64_t i = 0; i < part.total; ++i)
    factor[i] = static_cast<float>(random.between(1 - range, 1 + range));
  return images.mul(nn::to_device_async(draws_of(part, factors).to(images.scalar_type()), images.device()))
      .clamp_(0, 1);
}

REFINE_INLINE AffineMove random_move(RandomStream& random, const Augmentation& augmentation,
                                     std::int64_t height, std::int64_t width) {
  const double max_right = augmentation.translate * static_cast<double>(width),
               max_down = augmentation.translate * static_cast<double>(height);
  AffineMove move;
  move.degrees = random.between(-augmentation.rotation, augmentation.rotation);
  move.right = std::llrint(random.between(-max_right, max_right));
  move.down = std::llrint(random.between(-max_down, max_down));
  move.scale = random.between(augmentation.scale_min, augmentation.scale_max);
  return move;
}

REFINE_INLINE at::Tensor apply_moves(const at::Tensor& images, const std::vector<AffineMove>& moves) {
  const std::int64_t n = images.size(0), height = images.size(2), width = images.size(3);
  const double h = static_cast<double>(height), w = static_cast<double>(width);
  at::Tensor inverse =
      at::empty({n, 2, 3}, at::kFloat);  // from a pixel to its source, both axes from -1 to 1
  auto* to = inverse.mutable_data_ptr<float>();
  for (const AffineMove& move : moves) {
    const double angle = move.degrees * std::numbers::pi / 180, cosine = std::cos(angle) / move.scale,
                 sine = std::sin(angle) / move.scale;
    const double right = static_cast<double>(move.right), down = static_cast<double>(move.down);
    for (const double value : {cosine, sine * h / w, -2 / w * (cosine * right + sine * down),  //
                               -sine * w / h, cosine, -2 / h * (cosine * down - sine * right)}) {
      *to++ = static_cast<float>(value);
    }
  }
  const at::Tensor grid = at::affine_grid_generator(inverse, {n, 1, height, width}, /*align_corners=*/false);
  constexpr std::int64_t nearest = 1, zeros = 0;
  return at::grid_sampler(images, nn::to_device_async(grid.to(images.scalar_type()), images.device()),
                          nearest, zeros,
                          /*align_corners=*/false);
}

REFINE_INLINE at::Tensor random_affine(const at::Tensor& images, const Augmentation& augmentation,
                                       std::uint64_t seed, const BatchRows& part) {
  RandomStream random(seed, "affine");
  std::vector<AffineMove> moves;
  for (std::int64_t i = 0; i < part.total; ++i)
    moves.push_back(random_move(random, augmentation, images.size(2), images.size(3)));
  if (!part.positions.defined()) return apply_moves(images, moves);
  std::vector<AffineMove> own;
  for (std::int64_t i = 0; i < images.size(0); ++i)
    own.push_back(moves[static_cast<std::size_t>(part.positions[i].item<std::int64_t>())]);
  return apply_moves(images, own);
}

/// Makes a share of RGB images grey.
REFINE_INLINE at::Tensor random_grayscale(const at::Tensor& images, double share, std::uint64_t seed,
                                          const BatchRows& part) {
  const std::int64_t n = part.total;
  at::Tensor chosen = at::empty({n, 1, 1, 1}, at::kBool);
  auto* grey = chosen.mutable_data_ptr<bool>();
  RandomStream random(seed, "grayscale");
  for (std::int64_t i = 0; i < n; ++i) grey[i] = random.between(0, 1) < share;
  const auto channel = [&](std::int64_t c) { return images.narrow(1, c, 1); };
  const auto luma = channel(0).mul(0.2989).add_(channel(1).mul(0.587)).add_(channel(2).mul(0.114));
  return at::where(nn::to_device_async(draws_of(part, chosen), images.device()), luma, images);
}

REFINE_INLINE at::Tensor mix_with_previous(const at::Tensor& rows, double share, std::uint64_t seed,
                                           const BatchRows& part) {
  const std::int64_t n = part.total;
  std::vector<std::int64_t> one_per_row(static_cast<std::size_t>(rows.dim()), 1);
  one_per_row.front() = n;
  at::Tensor weights = at::empty(one_per_row, at::kFloat);
  auto* weight = weights.mutable_data_ptr<float>();
  RandomStream random_choice(seed, "mixed or not"), random_weight(seed, "mix");
  for (std::int64_t i = 0; i < n; ++i) {
    const double drawn = random_weight.between(0.5, 1);
    weight[i] = random_choice.between(0, 1) < share ? static_cast<float>(drawn) : 1.0f;
  }
  return at::lerp(at::roll(rows, 1, 0), rows,
                  nn::to_device_async(draws_of(part, weights).to(rows.scalar_type()), rows.device()));
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_INLINE at::Tensor augment(const at::Tensor& images, const Augmentation& augmentation,
                                 std::uint64_t seed) {
  return augment(images, augmentation, seed, BatchRows{.total = images.size(0)});
}

REFINE_INLINE at::Tensor augment(const at::Tensor& images, const Augmentation& augmentation,
                                 std::uint64_t seed, const BatchRows& rows) {
  augmentation.validate();
  if (augmentation.grayscale > 0 && images.size(1) != 3) {
    throw Error("augmentation.grayscale requires RGB images, got {} channels; set it to 0", images.size(1));
  }
  if (images.size(0) == 0) return images;
  at::Tensor changed = images;
  if (augmentation.resized_crop_min_scale < 1) {
    changed = detail::resized_crop(changed, augmentation.resized_crop_min_scale, seed, rows);
  }
  if (augmentation.crop_padding > 0 || augmentation.flip) {
    changed = detail::crop_and_flip(changed, augmentation.crop_padding, augmentation.flip, seed, rows);
  }
  if (augmentation.brightness > 0)
    changed = detail::random_brightness(changed, augmentation.brightness, seed, rows);
  if (augmentation.has_affine()) changed = detail::random_affine(changed, augmentation, seed, rows);
  if (augmentation.grayscale > 0)
    changed = detail::random_grayscale(changed, augmentation.grayscale, seed, rows);
  if (augmentation.mix > 0 && rows.total > 1) {
    changed = detail::mix_with_previous(changed, augmentation.mix, seed, rows);
  }
  return changed.contiguous(images.suggest_memory_format());
}

REFINE_INLINE at::Tensor mix_rows(const at::Tensor& rows, const Augmentation& augmentation,
                                  std::uint64_t seed) {
  const bool mixes = augmentation.mix > 0 && rows.size(0) > 1;
  return mixes ? detail::mix_with_previous(rows, augmentation.mix, seed, BatchRows{.total = rows.size(0)})
               : rows;
}

}  // namespace refine::data
