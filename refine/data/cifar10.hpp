#pragma once

#include <filesystem>
#include <string>
#include <vector>

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

namespace detail::cifar {

/// Returns the ten class names, in label order.
std::vector<std::string> class_names();

}  // namespace detail::cifar

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/cifar10.ipp>
#endif
