#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <refine/data/dataset.hpp>

namespace refine::data {

namespace detail::cifar {

std::vector<std::string> class_names();

}  // namespace detail::cifar

/// Whether something that `cifar10(root)` would read lies under `root`.
bool holds_cifar10(const std::filesystem::path& root);

/// CIFAR-10 (krizhevsky2009learning): 3×32×32, ten classes. Takes whichever form lies under `root`: the
/// binary one (`data_batch_1.bin` … `test_batch.bin`, there or in `cifar-10-batches-bin`), or image folders
/// (`train/<class>/*.png`, `test/<class>/*.jpg`). `download_cifar10` of `<refine/data/download.hpp>` fetches
/// it. \throws Error when neither or both are there, or a file is missing or damaged.
Split cifar10(const std::filesystem::path& root);

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/cifar10.ipp>
#endif
