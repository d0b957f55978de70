#pragma once

#include <string>
#include <vector>

namespace refine::report {

/// A figure over the course of a training. `x` and `y` are of one length; a `y` that is not finite leaves a
/// gap.
struct Curve {
  std::string name;     ///< "defense loss"
  std::string unit;     ///< of y: "%", "nats"; may be empty
  std::string x_label;  ///< "epoch"
  std::vector<double> x;
  std::vector<double> y;
};

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

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/curve.ipp>
#endif
