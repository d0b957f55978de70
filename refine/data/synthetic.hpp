#pragma once

#include <cstdint>

#include <refine/core/random.hpp>
#include <refine/data/dataset.hpp>

namespace refine::data {

/// A source of drawn images, for tests and first steps.
///
/// ```cpp
/// auto [train, test] = data::Synthetic{.train = 1000}.make();
/// ```
///
/// Each class has its own colour and shape (disc, square, ring or cross), drawn at a random
/// position and size on a random grey background, with noise. A small convolutional network learns
/// them within a few dozen steps. Labels cycle through the classes, so that the classes are
/// balanced.
///
/// Determinism: the pixels depend only on the fields.
struct Synthetic {
  Task task = tasks::cifar10;         ///< image shape and number of classes, all known
  std::int64_t train = 512;           ///< images of the training part, at least 0
  std::int64_t test = 256;            ///< images of the test part, at least 0
  std::uint64_t seed = default_seed;  ///< of positions, sizes and noise

  /// Checks the fields.
  /// \throws Error if the task has an open extent or no class, or a size is negative
  void validate() const;

  /// Draws the images.
  /// \throws Error as `validate` does
  Split make() const;

  /// Same as `make`.
  Split operator()() const { return make(); }

 private:
  /// True if the point lies in the shape, which is centred on 0 and about one unit in radius.
  static bool contains(int shape, double y, double x);

  Dataset draw(std::int64_t n, std::uint64_t drawing_seed) const;
};

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/synthetic.ipp>
#endif
