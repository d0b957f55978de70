#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <refine/winograd/detail/instruction_set.hpp>
#include <refine/winograd/detail/parallel.hpp>

namespace refine::winograd {

/// The extents of a 3×3 convolution of stride 1 that keeps the size of the images, channels-last.
struct Shape {
  Grid grid;
  std::int64_t in, out;
};

namespace detail {

/// Memory that a thread keeps for its next call, aligned to a cache line.
class Scratch {
 public:
  enum Use { images, results, kernels, patch, count };

  static float* of_thread(Use use, std::int64_t floats) {
    thread_local Scratch scratch[count];
    Scratch& own = scratch[use];
    if (floats > own.size_) {
      own.size_ = 0;
      own.data_.reset();  // before the larger block is allocated
      own.data_.reset(new Line[static_cast<std::size_t>(floats / floats_of_line + 1)]);
      own.size_ = floats;
    }
    return own.data_[0].data();
  }

 private:
  static constexpr std::int64_t floats_of_line = 16;
  struct alignas(64) Line : std::array<float, floats_of_line> {};

  std::unique_ptr<Line[]> data_;
  std::int64_t size_ = 0;
};

constexpr std::int64_t rounded_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

/// Returns the distance between the 36 values of a tile: not a power of two, which would map them
/// to one cache set.
constexpr std::int64_t spread(std::int64_t floats) {
  return floats + 16;
}

inline std::int64_t panel_width(const InstructionSet& with, std::int64_t channels) {
  return channels % (2 * with.lanes) == 0 ? 2 * with.lanes : with.lanes;
}

/// A range of tiles and their values.
struct Tiles {
  const float* v;
  TileLayout layout;
  std::int64_t first, count;
};

/// A range of panels of output channels and the values of their kernels.
struct Panels {
  const float* u;
  TileLayout layout;
  std::int64_t first, count;
};

inline TileLayout panel_layout(const InstructionSet& with, const Shape& shape, std::int64_t panels) {
  const std::int64_t width = panel_width(with, shape.out);
  return {spread(panels * shape.in * width), shape.in * width, width, width};
}

/// Returns memory for the pixels of a tile at the edge of an image.
inline float* patch_of(std::int64_t channels) {
  return Scratch::of_thread(Scratch::patch, values * channels);
}

/// Returns the layout of tiles as a matrix, padded to the granule of a product.
inline TileLayout rows_layout(std::int64_t rows, std::int64_t channels) {
  return {spread(rows * channels), channels, channels, channels};
}

inline std::int64_t padded(const InstructionSet& with, std::int64_t tiles) {
  return std::max(rounded_up(tiles, with.granule), 2 * with.granule);
}

/// Clears the padding: its products are never read, but denormal numbers would be slow.
inline void clear_padding(const InstructionSet& with, const TileLayout& layout, std::int64_t tiles,
                          float* v) {
  for (std::int64_t i = 0; i < values; ++i) {
    float* value = v + i * layout.value;
    std::fill(value + tiles * layout.tile, value + padded(with, tiles) * layout.tile, 0.0F);
  }
}

/// Computes the output of a range of tiles for a range of channels.
inline void multiply(const InstructionSet& with, const Shape& shape, const Tiles& tiles, const Panels& panels,
                     const float* bias, float* y) {
  constexpr std::int64_t max_channels = 64;  // at a time, so that their values stay in a cache
  const std::int64_t width = panels.layout.panel_width, step = std::min(panels.count, max_channels / width);
  const std::int64_t rows = padded(with, tiles.count);
  const TileLayout out = rows_layout(rows, step * width);
  float* m = Scratch::of_thread(Scratch::results, values * out.value);
  for (std::int64_t panel = 0; panel < panels.count; panel += step) {
    const std::int64_t count = std::min(step, panels.count - panel);
    for (std::int64_t i = 0; i < values; ++i) {
      with.product({.a = tiles.v + i * tiles.layout.value,
                    .a_row = tiles.layout.tile,
                    .a_term = 1,
                    .rows = rows,
                    .b = panels.u + i * panels.layout.value + panel * panels.layout.panel,
                    .b_panel = panels.layout.panel,
                    .panels = count,
                    .panel_width = width,
                    .terms = shape.in,
                    .c = m + i * out.value,
                    .c_row = out.tile,
                    .add = false});
    }
    const std::int64_t channel = (panels.first + panel) * width;
    with.output_pixels(m, out, count * width, shape.grid, tiles.first, tiles.first + tiles.count,
                       bias + channel, shape.out, y + channel);
  }
}

/// Transforms all kernels first; each thread then takes as many tiles as its cache holds through
/// all steps.
inline void convolve_by_tiles(const InstructionSet& with, const Shape& shape, const float* x, const float* w,
                              const KernelStrides& stride, const float* bias, float* y) {
  const std::int64_t width = panel_width(with, shape.out), panels = shape.out / width;
  const TileLayout kernels = panel_layout(with, shape, panels);
  float* u = Scratch::of_thread(Scratch::kernels, values * kernels.value);
  parallel(panels, 1, [&](std::int64_t begin, std::int64_t end) {
    with.kernel_values(w, stride, shape.in, begin * width, end * width, kernels, u);
  });
  constexpr std::int64_t cached = 98304;  // floats
  const std::int64_t total = shape.grid.tiles();
  const std::int64_t max_tiles = std::clamp<std::int64_t>(
      cached / (values * (shape.in + std::min<std::int64_t>(shape.out, 64))), 24, 96);
  const std::int64_t jobs = rounded_up((total + max_tiles - 1) / max_tiles, at::get_num_threads());
  const std::int64_t each = padded(with, (total + jobs - 1) / jobs);
  parallel((total + each - 1) / each, 1, [&](std::int64_t begin, std::int64_t end) {
    const TileLayout layout = rows_layout(each, shape.in);
    float* v = Scratch::of_thread(Scratch::images, values * layout.value);
    for (std::int64_t first = begin * each; first < std::min(total, end * each); first += each) {
      const std::int64_t count = std::min(each, total - first);
      with.image_values(x, shape.grid, shape.in, first, first + count, patch_of(shape.in), layout, v);
      clear_padding(with, layout, count, v);
      multiply(with, shape, {v, layout, first, count}, {u, kernels, 0, panels}, bias, y);
    }
  });
}

/// Transforms all tiles first; each thread then takes a range of output channels through all steps.
/// The values of the kernels stay in its cache where they outnumber those of the tiles.
inline void convolve_by_panels(const InstructionSet& with, const Shape& shape, const float* x, const float* w,
                               const KernelStrides& stride, const float* bias, float* y) {
  const std::int64_t total = shape.grid.tiles();
  const TileLayout layout = rows_layout(padded(with, total), shape.in);
  float* v = Scratch::of_thread(Scratch::images, values * layout.value);
  parallel(total, 32, [&](std::int64_t begin, std::int64_t end) {
    with.image_values(x, shape.grid, shape.in, begin, end, patch_of(shape.in), layout,
                      v + begin * layout.tile);
  });
  clear_padding(with, layout, total, v);
  const std::int64_t width = panel_width(with, shape.out), panels = shape.out / width;
  parallel(panels, 1, [&](std::int64_t begin, std::int64_t end) {
    const TileLayout kernels = panel_layout(with, shape, 1);
    float* u = Scratch::of_thread(Scratch::kernels, values * kernels.value);
    for (std::int64_t panel = begin; panel < end; ++panel) {
      with.kernel_values(w + panel * width * stride.out, stride, shape.in, 0, width, kernels, u);
      multiply(with, shape, {v, layout, 0, total}, {u, kernels, panel, 1}, bias, y);
    }
  });
}

}  // namespace detail

/// Computes y = x ∗ w + bias.
/// \param with the arithmetic, for channels that are whole vectors
/// \param x N×H×W×in
/// \param w,stride out×in×3×3, in any layout
/// \param bias out values
/// \param y N×H×W×out, overwritten
inline void convolve(const InstructionSet& with, const Shape& shape, const float* x, const float* w,
                     const KernelStrides& stride, const float* bias, float* y) {
  if (shape.grid.tiles() == 0) return;
  const auto by = shape.grid.tiles() < shape.out ? detail::convolve_by_panels : detail::convolve_by_tiles;
  by(with, shape, x, w, stride, bias, y);
}

namespace detail {

/// The values of a range of tiles, in panels, from which the gradient of the kernels is computed.
struct GradientTiles {
  const float *v, *z;
  TileLayout in, out;
  std::int64_t count;
};

/// Computes u = [u +] vᵀ·z for one of the 36 values and one panel of input channels.
inline void multiply_gradient(const InstructionSet& with, const GradientTiles& tiles, std::int64_t value,
                              std::int64_t panel, std::int64_t out, float* u, bool add) {
  with.product({.a = tiles.v + value * tiles.in.value + panel * tiles.in.panel,
                .a_row = 1,
                .a_term = tiles.in.tile,
                .rows = tiles.in.panel_width,
                .b = tiles.z + value * tiles.out.value,
                .b_panel = tiles.out.panel,
                .panels = out / tiles.out.panel_width,
                .panel_width = tiles.out.panel_width,
                .terms = tiles.count,
                .c = u,
                .c_row = out,
                .add = add});
}

/// Clears the gradient, for an empty batch.
inline void clear_kernels(const Shape& shape, const KernelStrides& stride, float* w) {
  for (std::int64_t k = 0; k < shape.out; ++k) {
    for (std::int64_t c = 0; c < shape.in; ++c) {
      for (std::int64_t i = 0; i < 9; ++i) {
        w[k * stride.out + c * stride.in + i / 3 * stride.down + i % 3 * stride.right] = 0;
      }
    }
  }
}

}  // namespace detail

/// Computes the gradient of w, which is overwritten, from that of y (g, N×H×W×out). Tiles are taken
/// in parts, which bounds the memory, and each sum belongs to one thread: the result is the same
/// with any number of threads.
inline void kernel_gradient(const InstructionSet& with, const Shape& shape, const float* x, const float* g,
                            const KernelStrides& stride, float* w) {
  using detail::Scratch;
  const std::int64_t total = shape.grid.tiles();
  if (total == 0) return detail::clear_kernels(shape, stride, w);
  const std::int64_t wide_in = detail::panel_width(with, shape.in), panels = shape.in / wide_in;
  const std::int64_t wide_out = detail::panel_width(with, shape.out);
  // As many tiles as a cache holds, but enough that the partial sums are fewer than the values.
  constexpr std::int64_t cached = 1 << 20;  // floats
  const std::int64_t max_tiles =
      std::max(cached / (values * (shape.in + shape.out)), 2 * shape.in * shape.out / (shape.in + shape.out));
  const std::int64_t parts = (total + max_tiles - 1) / max_tiles, each = (total + parts - 1) / parts;
  const TileLayout in{detail::spread(each * shape.in), each * wide_in, wide_in, wide_in};
  const TileLayout out{detail::spread(each * shape.out), each * wide_out, wide_out, wide_out};
  float* v = Scratch::of_thread(Scratch::images, values * in.value);
  float* z = Scratch::of_thread(Scratch::results, values * out.value);
  const auto prepare = [&](std::int64_t first, std::int64_t count) {
    parallel(count, 32, [&](std::int64_t begin, std::int64_t end) {
      with.image_values(x, shape.grid, shape.in, first + begin, first + end, detail::patch_of(shape.in), in,
                        v + begin * in.tile);
      with.gradient_values(g, shape.grid, shape.out, first + begin, first + end, detail::patch_of(shape.out),
                           out, z + begin * out.tile);
    });
    return detail::GradientTiles{v, z, in, out, count};
  };

  if (parts == 1) {  // the sums stay in a thread's cache
    const detail::GradientTiles tiles = prepare(0, total);
    const std::int64_t sum = detail::spread(wide_in * shape.out);
    parallel(panels, 1, [&](std::int64_t begin, std::int64_t end) {
      float* u = Scratch::of_thread(Scratch::kernels, values * sum);
      for (std::int64_t panel = begin; panel < end; ++panel) {
        for (std::int64_t i = 0; i < values; ++i) {
          detail::multiply_gradient(with, tiles, i, panel, shape.out, u + i * sum, false);
        }
        with.kernel_gradient(u, sum, shape.out, 0, wide_in, stride, w + panel * wide_in * stride.in);
      }
    });
    return;
  }
  const std::int64_t sum = detail::spread(shape.in * shape.out);
  float* u = Scratch::of_thread(Scratch::kernels, values * sum);
  for (std::int64_t first = 0; first < total; first += each) {
    const detail::GradientTiles tiles = prepare(first, std::min(each, total - first));
    parallel(values * panels, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t job = begin; job < end; ++job) {
        const std::int64_t i = job / panels, panel = job % panels;
        detail::multiply_gradient(with, tiles, i, panel, shape.out, u + i * sum + panel * wide_in * shape.out,
                                  first > 0);
      }
    });
  }
  parallel(shape.in, 8, [&](std::int64_t begin, std::int64_t end) {
    with.kernel_gradient(u, sum, shape.out, begin, end, stride, w);
  });
}

}  // namespace refine::winograd
