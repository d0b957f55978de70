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
/// \throws Error if they do not, or the data has fewer than two classes
inline void check_task(std::string_view model, const Task& expected, const Task& data) {
  if (data.classes < 2) {
    throw Error("the data must have at least 2 classes, got {}: there is nothing to tell apart",
                data.classes);
  }
  if (compatible(expected, data)) return;
  Message why;
  require_agreement(why << "the data does not fit the " << model << " (got " << data.image << " images of "
                        << data.classes << " classes, expected " << expected.image << " images of "
                        << expected.classes << " classes); evaluate the " << model << " on data of its task");
}

/// Checks that there is one triggered image for each of `images`, uint8 N×C×H×W.
/// \param name what returned them, for messages
/// \throws Error if the numbers or the shapes differ
inline void check_triggered(std::string_view name, const at::Tensor& triggered, const at::Tensor& images) {
  data::check_images(name, data::image_shape_of(images), triggered);
  if (triggered.size(0) == images.size(0)) return;
  throw Error(
      "{}: there must be one for each test image, in the same order (got {} triggered images for {} test images)",
      name, triggered.size(0), images.size(0));
}

/// Checks that there is one triggered image for each image of `test`.
/// \throws Error if the numbers or the shapes differ
inline void check_triggered(const at::Tensor& triggered, const data::Dataset& test) {
  check_triggered("triggered images", triggered, test.images);
}

}  // namespace refine::detail
