#pragma once

#include <ATen/core/Tensor.h>
#include <refine/core/error.hpp>

#include <filesystem>

namespace refine::data {

/// A file of unsigned bytes in the IDX format of MNIST (lecun1998gradient), plain or gzipped, as a uint8
/// tensor of the extents that its header tells. \throws Error when the header is not of that kind, or the
/// file is shorter or longer than it says, or damaged.
at::Tensor idx(const std::filesystem::path& path);

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/idx_definitions.hpp>
#endif
