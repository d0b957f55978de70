#pragma once

#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

namespace refine {

/// The seed of the published experiments, and our default.
inline constexpr std::uint64_t default_seed = 666;

/// An independent seed for one purpose, so that a draw added in one place moves no draw elsewhere:
/// `derived_seed(seed, "derangement")`, `derived_seed(seed, "epoch", 3)`. FNV-1a of the purpose, mixed with
/// the finaliser of SplitMix64 (Steele et al., 2014).
constexpr std::uint64_t derived_seed(std::uint64_t seed, std::string_view purpose, std::uint64_t index = 0) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (char c : purpose) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  for (std::uint64_t word : {seed, index}) {
    hash += word + 0x9e3779b97f4a7c15u;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
    hash ^= hash >> 31;
  }
  return hash;
}

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
