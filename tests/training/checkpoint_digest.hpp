#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/core.h>

#include <string>
#include <string_view>

#include <refine/core/sha256.hpp>
#include <refine/formats/safetensors.hpp>

namespace refine::testing {

/// Returns the digest of a checkpoint's content, written out: the SHA-256 of names, values, types, shapes and bytes, each
/// text after its length.
inline std::string digest(const formats::SafeTensors& content) {
  Sha256 hash;
  const auto add = [&](std::string_view text) { hash.add(fmt::format("{}:", text.size())).add(text); };
  for (const auto& [name, value] : content.metadata) {
    if (name == "sha256") continue;
    add(name);
    add(value);
  }
  for (const auto& [name, tensor] : content.tensors) {
    std::string shape;
    for (const auto extent : tensor.sizes()) shape += (shape.empty() ? "" : ", ") + std::to_string(extent);
    add(name);
    add(fmt::format("{} [{}]", c10::toString(tensor.scalar_type()), shape));
    if (tensor.numel() > 0) hash.add(tensor.const_data_ptr(), tensor.nbytes());
  }
  return hash.hex();
}

}  // namespace refine::testing
