#pragma once

#include <cstdint>

namespace refine::backbones::detail {

/// The extents of a vision transformer.
struct ViTExtents {
  std::int64_t channels = 0, height = 0, width = 0;  ///< of an image
  std::int64_t classes = 0;
  std::int64_t patch = 0;  ///< pixels of a patch's side
  std::int64_t dim = 0;    ///< numbers of a token
  std::int64_t depth = 0;
  std::int64_t heads = 0, head_width = 0;
  std::int64_t mlp = 0;  ///< of the hidden layer after an attention
  double dropout = 0;
};

}  // namespace refine::backbones::detail
