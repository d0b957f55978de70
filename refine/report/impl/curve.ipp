#pragma once

#include <refine/report/detail/curve.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include <refine/core/config.hpp>
#include <refine/report/detail/html_parts.hpp>

namespace refine::report::detail {

REFINE_INLINE Ticks::Ticks(double low, double high, int wanted, bool whole) {
  if (!(high > low)) {
    const double room = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= room;
    high += room;
  }
  const double raw = (high - low) / wanted;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double ratio = raw / power;
  step = power * (ratio <= 1 ? 1 : ratio <= 2 ? 2 : ratio <= 5 ? 5 : 10);
  if (whole) step = std::max(1.0, step);
  first = std::floor(low / step + 1e-9) * step;
  count = static_cast<int>(std::ceil((high - first) / step - 1e-9)) + 1;
}

REFINE_INLINE std::string tick_text(double value) {
  if (std::abs(value) < 1e-12) value = 0;
  return fmt::format("{:.6g}", value);
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_INLINE std::string svg_curve(const Curve& curve) {
  constexpr double left = 52, right = 428, top = 14, bottom = 186;
  double x_low = std::numeric_limits<double>::infinity(), x_high = -x_low, y_low = x_low, y_high = -x_low;
  bool whole = true;
  const std::size_t n = std::min(curve.x.size(), curve.y.size());
  const auto drawn = [&](std::size_t i) { return std::isfinite(curve.x[i]) && std::isfinite(curve.y[i]); };
  for (std::size_t i = 0; i < n; ++i) {
    if (!drawn(i)) continue;
    x_low = std::min(x_low, curve.x[i]), x_high = std::max(x_high, curve.x[i]);
    y_low = std::min(y_low, curve.y[i]), y_high = std::max(y_high, curve.y[i]);
    whole = whole && curve.x[i] == std::round(curve.x[i]);
  }
  if (x_low > x_high) return "";
  if (x_low == x_high) x_low -= 1, x_high += 1;
  const detail::Ticks ys(y_low, y_high, 4);
  const detail::Ticks xs(x_low, x_high, 6, whole);
  const auto px = [&](double x) { return left + (x - x_low) / (x_high - x_low) * (right - left); };
  const auto py = [&](double y) { return bottom - (y - ys.first) / (ys.last() - ys.first) * (bottom - top); };

  std::string svg =
      fmt::format("<svg class=\"chart\" viewBox=\"0 0 440 230\" role=\"img\" aria-label=\"{}\">",
                  html_escape(curve.name));
  for (int i = 0; i < ys.count; ++i) {
    svg += fmt::format(
        "<line class=\"rule\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>",
        left, right, py(ys.at(i)), left - 8, py(ys.at(i)) + 4, detail::tick_text(ys.at(i)));
  }
  for (int i = 0; i < xs.count; ++i) {
    if (xs.at(i) < x_low || xs.at(i) > x_high) continue;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>", px(xs.at(i)),
                       bottom + 18, detail::tick_text(xs.at(i)));
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>", (left + right) / 2,
                     bottom + 38, html_escape(curve.x_label));

  std::string path;
  bool pen_down = false;
  std::size_t last = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (drawn(i)) {
      path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", px(curve.x[i]), py(curve.y[i]));
      last = i;
    }
    pen_down = drawn(i);
  }
  svg += fmt::format("<path class=\"line\" d=\"{}\"/>", path);
  const double y = py(curve.y[last]);
  svg += fmt::format(
      "<circle class=\"dot\" cx=\"{0:.1f}\" cy=\"{1:.1f}\" r=\"3.5\"/>"
      "<text class=\"last\" x=\"{0:.1f}\" y=\"{2:.1f}\" text-anchor=\"end\">{3:.4g}</text></svg>",
      px(curve.x[last]), y, y < top + 20 ? y + 18 : y - 9, curve.y[last]);
  return svg;
}

}  // namespace refine::report
