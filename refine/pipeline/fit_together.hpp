#pragma once

#include <string_view>

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

/// Why a part's fields deny what its type says; empty when they do not.
constexpr Message denied(std::string_view part, const Task& type, const Task& fields) {
  Message why;
  if (!compatible(type.image, fields.image)) {
    why << "refine: the " << part << "'s type says " << type.image << " images, its field " << fields.image
        << "; leave the field out [Pipeline]";
  } else if (!compatible(type.classes, fields.classes)) {
    why << "refine: the " << part << "'s type says " << type.classes << " classes, its field "
        << fields.classes << "; leave the field out [Pipeline]";
  }
  return why;
}

}  // namespace refine
