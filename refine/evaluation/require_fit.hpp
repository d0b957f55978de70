#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

#include <refine/core/image_shape.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>

/// What is refused before any work, not after it.
namespace refine::detail {

void require_fit(std::string_view what, const Task& wanted, const Task& data);

void require_target(std::optional<int> target, const data::Dataset& test);

/// Images without labels. \param what names them: "clean images"
void require_images(std::string_view what, const ImageShape& wanted, const at::Tensor& images);

/// Triggered images that belong to `test`, one for each, in its order.
void require_triggered(const at::Tensor& triggered, const data::Dataset& test);

}  // namespace refine::detail

#if !defined(REFINE_COMPILED)
#include <refine/evaluation/require_fit_definitions.hpp>
#endif
