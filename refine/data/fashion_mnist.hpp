#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

#include <refine/core/error.hpp>
#include <refine/data/dataset.hpp>

namespace refine::data {

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

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/fashion_mnist.ipp>
#endif
