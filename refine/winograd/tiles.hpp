#pragma once

#include <cstdint>

namespace refine::winograd {

/// Where the polynomials of F(4×4, 3×3) (Lavin and Gray, 2016, `lavin2016winograd`) are evaluated: 0, ±a, ±b
/// and infinity. With a² = ½ and b² = 2 an output's error is two to three times a plain sum's; with the usual
/// a = 1 and b = 2 it is twice as much again.
struct Points {
  float a2 = 0.5F, b2 = 2;  ///< squares
  float a = 0.70710678118654752F, b = 1.4142135623730951F;
  float g0 = 1 / (a2 * b2);  ///< the kernel's shares
  float ga = 1 / (2 * a2 * (a2 - b2)), gb = 1 / (2 * b2 * (b2 - a2));
};

inline constexpr Points points;

/// An output tile is 4×4 pixels, its input 6×6, and a kernel has as many values: 36 in all.
inline constexpr std::int64_t tile_side = 4, values = 36;

/// A batch of images, N×H×W×channels, cut into tiles that overlap by the kernel's border.
struct Grid {
  std::int64_t images, height, width;
  std::int64_t down = (height + tile_side - 1) / tile_side, right = (width + tile_side - 1) / tile_side;

  constexpr std::int64_t tiles() const { return images * down * right; }

  struct Tile {
    std::int64_t image, top, left;
  };
  constexpr Tile tile(std::int64_t index) const {
    const std::int64_t in_image = index % (down * right);
    return {index / (down * right), in_image / right * tile_side, in_image % right * tile_side};
  }

  /// Where a pixel's channels begin.
  constexpr std::int64_t pixel(std::int64_t image, std::int64_t y, std::int64_t x,
                               std::int64_t channels) const {
    return ((image * height + y) * width + x) * channels;
  }
};

/// Where the 36 values of tiles are kept: value, then panel of channels, then tile, then channel.
struct TileLayout {
  std::int64_t value, panel, tile, panel_width;

  constexpr std::int64_t at(std::int64_t tile_index, std::int64_t channel) const {
    return channel / panel_width * panel + tile_index * tile + channel % panel_width;
  }
};

/// A 3×3 kernel tensor of any strides.
struct KernelStrides {
  std::int64_t out, in, down, right;
};

}  // namespace refine::winograd
