#pragma once

#include <refine/core/error.hpp>
#include <refine/formats/value.hpp>

#include <filesystem>
#include <string_view>

namespace refine::formats {

namespace detail {

/// The file of PyTorch before 1.6, or one pickle.
Value read_unzipped(const std::filesystem::path& path, std::string_view bytes);

}  // namespace detail

/// Reads what torch.save wrote, in today's form (an archive) or the one before PyTorch 1.6, or a bare pickle
/// without tensors (lists, NumPy arrays). Nothing in the file is run: see `read_pickle`, which also has the
/// limits, and `read_archive`.
/// \throws Error naming the file, when it is cut, damaged or of another kind, big-endian, a TorchScript
/// program, or holds anything that is no tensor and no plain container
Value read_torch_file(const std::filesystem::path& path);

}  // namespace refine::formats

#if !defined(REFINE_COMPILED)
#include <refine/formats/torch_file_definitions.hpp>
#endif
