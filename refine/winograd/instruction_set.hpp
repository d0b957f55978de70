#pragma once

#include <cstdint>

#include <refine/winograd/tiles.hpp>

namespace refine::winograd {

/// c = [c +] a·b for the rows of `a` and the panels of `b`: a panel has its rows one behind the other, each
/// as wide as one or two vectors.
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

// In a program that is compiled to be debugged these would take ten times as long as LibTorch's own. Clang
// has no such attribute: there, such a program does without them.
#ifdef __clang__
#define REFINE_OPTIMIZED
#else
#define REFINE_OPTIMIZED __attribute__((optimize("O2")))
#endif

#define REFINE_LANES_STRUCT Avx2
#define REFINE_TARGET "avx2,fma"
#define REFINE_LANES 8
#define REFINE_GRANULE 2
#include <refine/winograd/lanes.inc>

#define REFINE_LANES_STRUCT Avx512
#define REFINE_TARGET "avx512f"
#define REFINE_LANES 16
#define REFINE_GRANULE 4
#include <refine/winograd/lanes.inc>

#undef REFINE_OPTIMIZED

#endif

}  // namespace detail

/// The room's arithmetic on vectors, for one kind of processor.
struct InstructionSet {
  std::int64_t lanes;    ///< floats in a vector; channels come in whole vectors
  std::int64_t granule;  ///< a product has two granules of rows at least, and no part of one

  void (*product)(const Product&);

  /// Kernels w → u = G·w·Gᵀ, for the output channels [begin, end), which are whole panels.
  void (*kernel_values)(const float* w, const KernelStrides& stride, std::int64_t in, std::int64_t begin,
                        std::int64_t end, const TileLayout& to, float* u);
  /// Its adjoint, for the input channels [begin, end). \param u values × in × out, `value` apart
  void (*kernel_gradient)(const float* u, std::int64_t value, std::int64_t out, std::int64_t begin,
                          std::int64_t end, const KernelStrides& stride, float* w);

  /// Tiles d of images → v = Bᵀ·d·B, for the tiles [begin, end). \param patch memory for a tile
  void (*image_values)(const float* x, const Grid& grid, std::int64_t channels, std::int64_t begin,
                       std::int64_t end, float* patch, const TileLayout& to, float* v);
  /// Products m → y = Aᵀ·m·A + bias, for the tiles [begin, end) and `channels` of the `pixel` channels of y.
  void (*output_pixels)(const float* m, const TileLayout& from, std::int64_t channels, const Grid& grid,
                        std::int64_t begin, std::int64_t end, const float* bias, std::int64_t pixel,
                        float* y);
  /// The adjoint of that without bias.
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

/// What this processor has for so many channels, or nothing.
inline const InstructionSet* instruction_set(std::int64_t in, std::int64_t out) {
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
