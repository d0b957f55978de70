#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

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

}  // namespace refine
