#pragma once

#include <ATen/core/Tensor.h>
#include <CLI/CLI.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <refine/core/task.hpp>
#include <refine/transforms/any_transform.hpp>
#include <refine/transforms/transform.hpp>

namespace refine::cli {

/// Which transform is trained, as flags.
struct TransformOptions {
  std::string name = "UNet";
  int levels = 0, width = 0;  ///< 0: usual

  void add_to(CLI::App& command);

  transforms::AnyTransform make(const ImageShape& image, std::uint64_t seed) const;
};

/// The transform that such tensors belong to, with weights of its own. \param prefix of their names
/// \throws Error when they are no transform's
transforms::AnyTransform transform_of(const std::map<std::string, at::Tensor>& tensors,
                                      const std::string& prefix, const ImageShape& image,
                                      transforms::OutputActivation squash, const std::filesystem::path& path);

}  // namespace refine::cli
