#pragma once

#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

namespace refine {

/// The host-side generator. Its draws are the same with every standard library, which is why the helpers
/// below stand in for `std::uniform_int_distribution` and `std::shuffle`, whose results the standard leaves
/// open.
using Random = std::mt19937_64;

/// A whole number drawn evenly from [0, bound). \pre bound > 0
inline std::uint64_t uniform_below(Random& random, std::uint64_t bound) {
  const std::uint64_t unfair =
      (~std::uint64_t{0} % bound + 1) % bound;  // so many values would be drawn too often
  std::uint64_t value = random();
  while (value < unfair) value = random();
  return value % bound;
}

/// A number drawn evenly from [0, 1): a multiple of 2⁻⁵³, of one draw.
inline double uniform_unit(Random& random) {
  return static_cast<double>(random() >> 11) * 0x1p-53;
}

/// 0 … n-1 in a random order (Fisher–Yates).
inline std::vector<std::int64_t> random_permutation(Random& random, std::int64_t n) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[uniform_below(random, i)]);
  return order;
}

}  // namespace refine
