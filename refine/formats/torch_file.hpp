#pragma once

#include <refine/core/error.hpp>
#include <refine/formats/value.hpp>

#include <filesystem>
#include <set>
#include <string>
#include <string_view>

namespace refine::formats {

namespace detail {

/// What a file of torch.save holds, which may be one opaque object.
struct TorchFile {
  Value value;
  std::set<std::string> unknown_names = {};  ///< what it asks for that was not made, and never called
};

/// The file of PyTorch before 1.6, or one pickle.
TorchFile read_unzipped(const std::filesystem::path& path, std::string_view bytes);

TorchFile read_any_torch_file(const std::filesystem::path& path);

[[noreturn]] void refuse_opaque(const std::filesystem::path& path, std::string_view name);

}  // namespace detail

/// Reads what torch.save wrote, in today's form (an archive) or the one before PyTorch 1.6, or a bare pickle
/// without tensors (lists, NumPy arrays). Nothing in the file is run: see `read_pickle`, which also has the
/// limits, and `read_archive`. An object of an unknown class in it is `Opaque`.
/// \throws Error naming the file, when it is cut, damaged or of another kind (`recognize`), big-endian, a
/// TorchScript program, or one opaque object as a whole
Value read_torch_file(const std::filesystem::path& path);

}  // namespace refine::formats

#if !defined(REFINE_COMPILED)
#include <refine/formats/torch_file_definitions.hpp>
#endif
