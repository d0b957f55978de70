#pragma once

#include <refine/data/split.hpp>

#include <filesystem>
#include <string>

namespace refine::data {

/// Fashion-MNIST (xiao2017fashion) as 3×32×32 images: two black pixels around the 28×28 ones, grey repeated
/// in three channels; ten classes, 60,000 + 10,000 images. The default is where Debian's
/// `dataset-fashion-mnist` installs it. \throws Error when a file is missing or damaged.
Split fashion_mnist(const std::filesystem::path& root = "/usr/share/datasets/fashion-mnist");

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/fashion_mnist_definitions.hpp>
#endif
