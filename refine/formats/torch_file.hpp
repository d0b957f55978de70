#pragma once

#include <c10/core/ScalarType.h>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/pickle_builder.hpp>
#include <refine/formats/pickle_machine.hpp>
#include <refine/formats/value.hpp>

#include <filesystem>
#include <string_view>

namespace refine::formats {

namespace detail {

/// PyTorch's archive: data.pkl, and a storage of key k under data/k.
Value read_zipped(const std::filesystem::path& path);

/// The first pickle of what torch.save wrote before 1.6: a number of ten bytes.
inline constexpr std::string_view legacy_magic{"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
                                               15};

/// The file of PyTorch before 1.6: pickles of a magic number, a version, what the machine was, the object and
/// the storages' keys; then each storage's count of numbers (int64) and its bytes.
Value read_legacy(const std::filesystem::path& path, std::string_view bytes);

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
