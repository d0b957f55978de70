#pragma once

#include <refine/core/message.hpp>
#include <refine/core/task.hpp>

namespace refine {

/// Why a transform, a backbone and a remap can't make a pipeline; empty when they can. Open extents fit
/// anything.
constexpr Message fit_together(const ImageShape& transform, const Task& backbone, int remap) {
  Message why;
  if (!compatible(transform, backbone.image)) {
    why << "refine: the transform rewrites " << transform << " images, the backbone takes " << backbone.image
        << "; give both the same Task [Pipeline]";
  } else if (!compatible(remap, backbone.classes)) {
    why << "refine: the remap renames " << remap << " classes, the backbone predicts " << backbone.classes
        << "; give both the same Task [Pipeline]";
  }
  return why;
}

}  // namespace refine
