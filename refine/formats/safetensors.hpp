#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace refine::formats {

/// The content of a safetensors file.
struct SafeTensors {
  std::map<std::string, at::Tensor> tensors = {};    ///< tensors by name
  std::map<std::string, std::string> metadata = {};  ///< text about them, in UTF-8
};

/// Reads a safetensors file. Every size that the file claims is checked against its length before
/// memory is allocated.
///
/// \code{.cpp}
/// const auto content = formats::read_safetensors("weights.safetensors");
/// const at::Tensor& weight = content.tensors.at("conv1.weight");
/// \endcode
///
/// \param path the file
/// \return the tensors on the CPU, contiguous, and the metadata
/// \throws Error if the file cannot be read, is truncated, or contradicts itself: overlapping
///        tensors, a shape that does not match the size, a duplicate name, a malformed header
/// \throws Error if a tensor has a dtype that refine does not compute with (8-bit floating point,
///        complex, unsigned integers other than uint8)
SafeTensors read_safetensors(const std::filesystem::path& path);

/// Reads the bytes of a safetensors file that is already in memory.
/// \param path where the bytes come from, for messages
/// \param bytes the whole file
/// \return the tensors on the CPU, contiguous, and the metadata
/// \throws Error as for a file
SafeTensors read_safetensors(const std::filesystem::path& path, std::string_view bytes);

/// Writes a safetensors file. The file appears under `path` only when it is complete.
///
/// \code{.cpp}
/// formats::write_safetensors("out.safetensors",
///                            {.tensors = {{"weight", weight}}, .metadata = {{"epoch", "3"}}});
/// \endcode
///
/// \param path the file; parent folders are created, an existing file is replaced
/// \param content tensors on any device and of any strides; they are written contiguous
/// \throws Error if the path cannot be written or the disk is full
/// \throws Error if a tensor has a dtype that the format lacks or the name `__metadata__`, or if a
///        name or the metadata is not UTF-8
void write_safetensors(const std::filesystem::path& path, const SafeTensors& content);

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/safetensors.ipp>
#endif
