#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/metrics/target.hpp>

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

/// Checks that a target class, if there is one, is a class of the data.
/// \throws Error if it is not
inline void check_target(const metrics::Target& target, const data::Dataset& test) {
  target.require_valid(static_cast<int>(test.classes.size()));
}

/// Checks images without labels.
/// \param name their name in messages: "clean images"
/// \param expected the shape that the defense takes
/// \throws Error if they are not uint8 N×C×H×W of this shape
inline void check_images(std::string_view name, const ImageShape& expected, const at::Tensor& images) {
  if (!images.defined() || images.dim() != 4 || images.scalar_type() != at::kByte)
    throw Error("{}: must be uint8 N×C×H×W; convert them with data::to_bytes", name);
  const ImageShape shape = data::image_of(images);
  if (compatible(expected, shape)) return;
  Message why;
  require_agreement(why << name << ": wrong shape (got " << shape << ", expected " << expected
                        << "); resize them to the shape that the defense takes");
}

/// Checks that there is one triggered image for each image of `test`.
/// \throws Error if the numbers or the shapes differ
inline void check_triggered(const at::Tensor& triggered, const data::Dataset& test) {
  check_images("triggered images", test.image(), triggered);
  if (triggered.size(0) == test.size()) return;
  throw Error(
      "triggered images: there must be one for each test image, in the same order "
      "(got {} triggered images for {} test images)",
      triggered.size(0), test.size());
}

}  // namespace refine::detail
