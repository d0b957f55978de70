#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <string>

namespace refine::triggers::detail {

/// Returns sizes as messages show them: `3x32x32`; `scalar` if there are none.
inline std::string shape_text(at::IntArrayRef sizes) {
  if (sizes.empty()) return "scalar";
  std::string text = std::to_string(sizes[0]);
  for (std::size_t i = 1; i < sizes.size(); ++i) text += "x" + std::to_string(sizes[i]);
  return text;
}

/// Returns the tensor's shape as messages show it; `undefined` for an undefined tensor.
inline std::string shape_text(const at::Tensor& tensor) {
  return tensor.defined() ? shape_text(tensor.sizes()) : "undefined";
}

}  // namespace refine::triggers::detail
