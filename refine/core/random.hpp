#pragma once

#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

namespace refine {

/// The default seed, which is the one of the authors' experiments.
inline constexpr std::uint64_t default_seed = 666;

/// Returns an independent seed for one purpose: `derived_seed(seed, "derangement")`.
///
/// A draw added in one place therefore changes no draw elsewhere. The purpose is hashed by FNV-1a
/// and mixed with `seed` and `index` by the finaliser of SplitMix64 (Steele et al., 2014).
///
/// \param seed of the whole run
/// \param purpose what the draws are for
/// \param index of one of several uses, such as an epoch
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

/// The random generator of the host. It gives the same values with every standard library. The
/// functions below replace `std::uniform_int_distribution` and `std::shuffle`, whose results the
/// standard leaves open.
using Random = std::mt19937_64;

/// Draws an integer uniformly from [0, bound).
/// \pre `bound` is positive
inline std::uint64_t uniform_below(Random& random, std::uint64_t bound) {
  // 2⁶⁴ mod bound: the first values are skipped, so that each remainder is equally likely.
  const std::uint64_t unfair = (~std::uint64_t{0} % bound + 1) % bound;
  std::uint64_t value = random();
  while (value < unfair) value = random();
  return value % bound;
}

/// Draws a number uniformly from the multiples of 2⁻⁵³ in [0, 1), with one draw of the generator.
inline double uniform_unit(Random& random) {
  return static_cast<double>(random() >> 11) * 0x1p-53;
}

/// Returns 0 … n−1 in a random order (Fisher–Yates).
/// \param random the generator
/// \param n not negative
inline std::vector<std::int64_t> random_permutation(Random& random, std::int64_t n) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[uniform_below(random, i)]);
  return order;
}

}  // namespace refine
