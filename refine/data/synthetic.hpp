#pragma once

#include <cstdint>

#include <refine/core/random.hpp>
#include <refine/data/dataset.hpp>

namespace refine::data {

/// Images drawn on the spot, for tests and first steps: each class has its colour and its shape (disc,
/// square, ring or cross), at a random place and size, on random grey, under noise. A small convolutional
/// network learns them within a few dozen steps. Labels go round in a circle, so the classes are balanced.
///
/// Determinism: the pixels depend on the fields and on nothing else.
struct Synthetic {
  Task task = tasks::cifar10;
  std::int64_t train = 512;
  std::int64_t test = 256;
  std::uint64_t seed = default_seed;

  /// \throws Error when the task has an open extent or no class, or a size is negative.
  void validate() const;

  Split make() const;

  Split operator()() const { return make(); }

 private:
  static bool inside(int shape, double y, double x);

  Dataset draw(std::int64_t n, std::uint64_t drawing_seed) const;
};

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/synthetic.ipp>
#endif
