#pragma once

#include <cstdint>

namespace refine::winograd {

/// The points at which the polynomials of F(4×4, 3×3) (Lavin and Gray, 2016, `lavin2016winograd`)
/// are evaluated: 0, ±a, ±b and infinity. With a² = ½ and b² = 2 the error is two to three times
/// that of a plain sum; with the usual a = 1 and b = 2 it is twice as large.
struct Points {
  float a2 = 0.5F, b2 = 2;  ///< squares
  float a = 0.70710678118654752F, b = 1.4142135623730951F;
  float g0 = 1 / (a2 * b2);  ///< factors of the kernel's transform
  float ga = 1 / (2 * a2 * (a2 - b2)), gb = 1 / (2 * b2 * (b2 - a2));
};

inline constexpr Points points;

/// The values of a tile: an output tile of 4×4 pixels has an input of 6×6, and a transformed kernel
/// 6×6 values.
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

  /// Returns the offset of a pixel's channels.
  constexpr std::int64_t pixel(std::int64_t image, std::int64_t y, std::int64_t x,
                               std::int64_t channels) const {
    return ((image * height + y) * width + x) * channels;
  }
};

/// The layout of the 36 values of tiles: value, then panel of channels, then tile, then channel.
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

/// A product c = [c +] a·b for the rows of `a` and the panels of `b`. The rows of a panel are
/// contiguous, each as wide as one or two vectors.
struct Product {
  const float* a;
  std::int64_t a_row, a_term, rows;
  const float* b;
  std::int64_t b_panel, panels, panel_width, terms;
  float* c;
  std::int64_t c_row;
  bool add;
};

namespace detail {

#if defined(__x86_64__)

// Optimised also in programs compiled for debugging, where they would take ten times as long as
// LibTorch's. Clang lacks the attribute; such programs then use LibTorch's.
#ifdef __clang__
#define REFINE_OPTIMIZED
#else
#define REFINE_OPTIMIZED __attribute__((optimize("O2")))
#endif

#define REFINE_LANES_STRUCT Avx2
#define REFINE_TARGET "avx2,fma"
#define REFINE_LANES 8
#define REFINE_GRANULE 2
#include <refine/winograd/detail/lanes.inc>

#define REFINE_LANES_STRUCT Avx512
#define REFINE_TARGET "avx512f"
#define REFINE_LANES 16
#define REFINE_GRANULE 4
#include <refine/winograd/detail/lanes.inc>

#undef REFINE_OPTIMIZED

#endif

}  // namespace detail

/// The vector arithmetic for one kind of processor.
struct InstructionSet {
  std::int64_t lanes;    ///< floats in a vector; channels are whole vectors
  std::int64_t granule;  ///< the rows of a product are a multiple of it, at least two

  void (*product)(const Product&);

  /// Transforms kernels, u = G·w·Gᵀ, for the output channels [begin, end), which are whole panels.
  void (*kernel_values)(const float* w, const KernelStrides& stride, std::int64_t in, std::int64_t begin,
                        std::int64_t end, const TileLayout& to, float* u);
  /// The adjoint of `kernel_values`, for the input channels [begin, end); u is values × in × out.
  void (*kernel_gradient)(const float* u, std::int64_t value, std::int64_t out, std::int64_t begin,
                          std::int64_t end, const KernelStrides& stride, float* w);

  /// Transforms tiles of images, v = Bᵀ·d·B, for the tiles [begin, end); `patch` is memory for a
  /// tile.
  void (*image_values)(const float* x, const Grid& grid, std::int64_t channels, std::int64_t begin,
                       std::int64_t end, float* patch, const TileLayout& to, float* v);
  /// Transforms products back, y = Aᵀ·m·A + bias, for the tiles [begin, end) and `channels` of the
  /// `pixel` channels of y.
  void (*output_pixels)(const float* m, const TileLayout& from, std::int64_t channels, const Grid& grid,
                        std::int64_t begin, std::int64_t end, const float* bias, std::int64_t pixel,
                        float* y);
  /// The adjoint of that, without bias.
  void (*gradient_values)(const float* g, const Grid& grid, std::int64_t channels, std::int64_t begin,
                          std::int64_t end, float* patch, const TileLayout& to, float* z);

  template <typename Lanes>
  static constexpr InstructionSet of() {
    return {.lanes = Lanes::lanes,
            .granule = Lanes::granule,
            .product = Lanes::product,
            .kernel_values = Lanes::kernel_values,
            .kernel_gradient = Lanes::kernel_gradient,
            .image_values = Lanes::image_values,
            .output_pixels = Lanes::output_pixels,
            .gradient_values = Lanes::gradient_values};
  }
};

/// Returns the arithmetic of this processor for numbers of channels, or null.
inline const InstructionSet* instruction_set([[maybe_unused]] std::int64_t in,
                                             [[maybe_unused]] std::int64_t out) {
#if defined(__x86_64__) && (!defined(__clang__) || defined(__OPTIMIZE__))
  static constexpr InstructionSet avx2 = InstructionSet::of<detail::Avx2>();
  static constexpr InstructionSet avx512 = InstructionSet::of<detail::Avx512>();
  const auto fit = [&](const InstructionSet& set) { return in % set.lanes == 0 && out % set.lanes == 0; };
  if (fit(avx512) && __builtin_cpu_supports("avx512f")) return &avx512;
  if (fit(avx2) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2;
#endif
  return nullptr;
}

}  // namespace refine::winograd
