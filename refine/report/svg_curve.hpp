#pragma once

#include <string>

#include <refine/report/curve.hpp>

namespace refine::report {

namespace detail {

/// Round steps of 1, 2 or 5 times a power of ten, about `wanted` of them, that cover [low, high].
struct Ticks {
  double first = 0;
  double step = 1;
  int count = 1;

  Ticks(double low, double high, int wanted, bool whole = false);

  double at(int i) const { return first + i * step; }
  double last() const { return at(count - 1); }
};

}  // namespace detail

/// One curve as inline SVG, 440 × 230 units that scale with the page; empty when no point is finite.
std::string svg_curve(const Curve& curve);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/svg_curve_definitions.hpp>
#endif
