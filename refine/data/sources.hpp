#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>

namespace refine::data {

/// Reads CIFAR-10 (`krizhevsky2009learning`): images 3×32×32, ten classes, 50,000 + 10,000 images.
///
/// Two layouts are recognised:
///  - the binary files `data_batch_1.bin` … `test_batch.bin`, in `root` or
///    `root/cifar-10-batches-bin`;
///  - image folders, `root/train/<class>/*.png` and `root/test/<class>/*.jpg`.
///
/// `download_cifar10` of `<refine/data/download.hpp>` fetches the first.
/// \param root the data set's folder
/// \throws Error if neither or both layouts are present, or a file is missing or damaged
Split cifar10(const std::filesystem::path& root);

/// True if `root` contains a file or folder that `cifar10(root)` would read.
bool holds_cifar10(const std::filesystem::path& root);

/// Reads Fashion-MNIST (`xiao2017fashion`) as images 3×32×32: ten classes, 60,000 + 10,000 images.
///
/// The 28×28 images get two black pixels on each side, and their grey is repeated in three
/// channels.
/// \param root folder with the four IDX files, plain or gzipped; the default is where Debian's
///   package `dataset-fashion-mnist` installs them
/// \throws Error if a file is missing or damaged
Split fashion_mnist(const std::filesystem::path& root = "/usr/share/datasets/fashion-mnist");

/// Reads a file of unsigned bytes in the IDX format of MNIST (`lecun1998gradient`).
/// \param path the file, plain or gzipped
/// \return uint8, of the extents in the file's header
/// \throws Error if the file cannot be read, has another format, or its length is not what the
///   header requires
at::Tensor read_idx(const std::filesystem::path& path);

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

 private:
  /// True if the point lies in the shape, which is centred on 0 and about one unit in radius.
  static bool contains(int shape, double y, double x);

  Dataset draw(std::int64_t n, std::uint64_t drawing_seed) const;
};

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/sources.ipp>
#endif
