#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>

namespace refine::formats {

/// A file of a kind that refine does not read.
struct ForeignFile {
  std::string_view what;    ///< with its article: "an ONNX model"
  std::string_view advice;  ///< what to do with it instead
};

/// The refusal of such a file.
struct ForeignFileError : Error {
  using Error::Error;
};

/// Returns the kind of a file that is neither a PyTorch file nor safetensors, by its content, as far as it is
/// a usual one. \param beginning of the file; 64 kB are enough \param size of the whole file, in bytes
std::optional<ForeignFile> recognize(std::string_view beginning, std::uint64_t size);

/// Returns the kind of a ZIP archive that is not one of torch.save and TorchScript, by its entries' paths.
std::optional<ForeignFile> recognize_archive(const std::vector<std::string>& names);

/// Returns the kind of the file at `path`, by its content. \throws Error when it cannot be read
std::optional<ForeignFile> recognize_file(const std::filesystem::path& path);

namespace detail {

[[noreturn]] void refuse_foreign(const std::filesystem::path& path, const ForeignFile& foreign);

}  // namespace detail
}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/inspect.ipp>
#endif
