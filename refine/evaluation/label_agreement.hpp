#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/check_task.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// The share of images that the defended model calls as the victim does. On clean images it bounds, without
/// a label, what the defense costs: no more accuracy is lost than agreement.
/// \param images uint8 N×C×H×W
/// \param show progress on standard error
/// \throws Error when the images do not fit the defense
template <DefendedClassifier D>
metrics::Proportion agreement(const D& defense, const at::Tensor& images, bool show = false) {
  detail::require_images("images", defense.task().image, images);
  detail::EvaluationProgress progress("agreement", images.size(0), show);
  const at::Tensor same = in_batches(
      [&](const at::Tensor& x) { return defense.undefended(x).argmax(1).eq(defense.forward(x).argmax(1)); },
      images, defense.device(), progress);
  progress.finish();
  return {.hits = same.defined() ? same.sum().template item<std::int64_t>() : 0, .n = images.size(0)};
}

}  // namespace refine
