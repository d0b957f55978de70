#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

#include <refine/core/error.hpp>
#include <refine/data/dataset.hpp>

namespace refine::data {

/// A file of unsigned bytes in the IDX format of MNIST (lecun1998gradient), plain or gzipped, as a uint8
/// tensor of the extents that its header tells. \throws Error when the header is not of that kind, or the
/// file is shorter or longer than it says, or damaged.
at::Tensor idx(const std::filesystem::path& path);

/// Fashion-MNIST (xiao2017fashion) as 3×32×32 images: two black pixels around the 28×28 ones, grey repeated
/// in three channels; ten classes, 60,000 + 10,000 images. The default is where Debian's
/// `dataset-fashion-mnist` installs it. \throws Error when a file is missing or damaged.
Split fashion_mnist(const std::filesystem::path& root = "/usr/share/datasets/fashion-mnist");

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/fashion_mnist.ipp>
#endif
