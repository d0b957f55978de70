#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>

/// Checks of the arguments of evaluations, made before any work.
namespace refine::detail {

/// Checks that a model and labelled data have the same task.
/// \param model its name in messages: "pipeline", "backbone"
/// \throws Error if they do not
inline void check_task(std::string_view model, const Task& expected, const Task& data) {
  if (compatible(expected, data)) return;
  Message why;
  require_agreement(why << "the data does not fit the " << model << " (got " << data.image << " images of "
                        << data.classes << " classes, expected " << expected.image << " images of "
                        << expected.classes << " classes); evaluate the " << model << " on data of its task");
}

/// Checks that there is one triggered image for each image of `test`.
/// \throws Error if the numbers or the shapes differ
inline void check_triggered(const at::Tensor& triggered, const data::Dataset& test) {
  data::check_images("triggered images", test.image_shape(), triggered);
  if (triggered.size(0) == test.size()) return;
  throw Error(
      "triggered images: there must be one for each test image, in the same order "
      "(got {} triggered images for {} test images)",
      triggered.size(0), test.size());
}

}  // namespace refine::detail
