#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>

namespace refine::formats {

/// A kind of file that refine does not read.
struct ForeignFile {
  std::string_view what;    ///< the kind, with its article: "an ONNX model"
  std::string_view advice;  ///< what the user can do instead
  bool is_model = true;     ///< false: an image, a document, an archive of anything, a failed download
};

/// Reports a file of a kind that refine does not read.
struct ForeignFileError : Error {
  using Error::Error;
};

/// Reports a pickle that names a function which runs programs, such as `os.system`. Python would
/// call it while loading the file; refine never does.
struct ProgramError : Error {
  using Error::Error;
};

/// Returns the kind of a file by its content, if it is a common kind that refine does not read:
/// ONNX, HDF5, TensorFlow, an image, a web page, …
///
/// \code{.cpp}
/// if (const auto foreign = formats::recognize(bytes.substr(0, 65536), bytes.size())) {
///   fmt::print("this is {}; {}\n", foreign->what, foreign->advice);
/// }
/// \endcode
///
/// \param beginning the first bytes of the file; 64 KiB are enough
/// \param size size of the whole file in bytes
/// \return the kind; empty for PyTorch files, safetensors and unknown content
std::optional<ForeignFile> recognize(std::string_view beginning, std::uint64_t size);

/// Returns the kind of a ZIP archive by the paths of its entries.
/// \param names path of each entry, including the top folder
/// \return the kind; empty for archives of torch.save and TorchScript, and for unknown content
std::optional<ForeignFile> recognize_archive(const std::vector<std::string>& names);

/// Returns the kind of a file or folder by its content.
/// \param path the file or folder
/// \return the kind; empty for files that refine reads, and for unknown content
/// \throws Error if the file cannot be read
std::optional<ForeignFile> recognize_file(const std::filesystem::path& path);

namespace detail {

/// Throws the ForeignFileError for `path`.
/// \throws ForeignFileError always
[[noreturn]] void refuse_foreign(const std::filesystem::path& path, const ForeignFile& foreign);

}  // namespace detail
}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/inspect.ipp>
#endif
