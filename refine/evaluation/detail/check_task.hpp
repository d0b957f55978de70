#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>

/// What is refused before any work, not after it.
namespace refine::detail {

void check_task(std::string_view what, const Task& wanted, const Task& data);

void require_target(std::optional<int> target, const data::Dataset& test);

/// Images without labels. \param what names them: "clean images"
void require_images(std::string_view what, const ImageShape& wanted, const at::Tensor& images);

/// Triggered images that belong to `test`, one for each, in its order.
void require_triggered(const at::Tensor& triggered, const data::Dataset& test);

inline void check_task(std::string_view what, const Task& wanted, const Task& data) {
  if (compatible(wanted, data)) return;
  Message why;
  require_agreement(why << "the " << what << " takes " << wanted.image << " images of " << wanted.classes
                        << " classes, the data has " << data.image << " and " << data.classes
                        << "; evaluate it on data of its task");
}

inline void require_target(std::optional<int> target, const data::Dataset& test) {
  const auto classes = static_cast<int>(test.classes.size());
  if (target && (*target < 0 || *target >= classes)) {
    throw Error("target class {} is none of the data's {}; say 0 to {}", *target, classes, classes - 1);
  }
}

inline void require_images(std::string_view what, const ImageShape& wanted, const at::Tensor& images) {
  if (!images.defined() || images.dim() != 4 || images.scalar_type() != at::kByte) {
    throw Error("the {} are not an N×C×H×W tensor of bytes; convert them with data::to_bytes", what);
  }
  const ImageShape shape = data::image_of(images);
  if (compatible(wanted, shape)) return;
  Message why;
  require_agreement(why << "the defense takes " << wanted << " images, the " << what << " are " << shape
                        << "; resize them, or give it images of its shape");
}

inline void require_triggered(const at::Tensor& triggered, const data::Dataset& test) {
  require_images("triggered images", test.image(), triggered);
  if (triggered.size(0) == test.size()) return;
  throw Error("there are {} triggered images for {} test images; give one for each, in one order",
              triggered.size(0), test.size());
}

}  // namespace refine::detail
