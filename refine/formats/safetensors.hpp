#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace refine::formats {

/// What a safetensors file holds: named tensors, and text about them.
struct SafeTensors {
  std::map<std::string, at::Tensor> tensors = {};
  std::map<std::string, std::string> metadata = {};
};

/// Reads a safetensors file; its tensors come on the host, contiguous.
/// \throws Error when the file can't be read, is truncated, or says of itself what is not so
SafeTensors read_safetensors(const std::filesystem::path& path);

/// The same of a file's bytes, which are here already. \param path for the message
SafeTensors read_safetensors(const std::filesystem::path& path, std::string_view bytes);

/// Writes a safetensors file, whole or not at all.
/// \throws Error when the path can't be written, the disk is full, or a tensor has a type that the format
/// lacks
void write_safetensors(const std::filesystem::path& path, const SafeTensors& content);

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/safetensors.ipp>
#endif
