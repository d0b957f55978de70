#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/check_task.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// Returns the share of images that the defended model classifies as the victim does. On clean
/// images this bounds what the defense costs, without labels: no more accuracy is lost than
/// agreement is missing from 1.
///
///     const metrics::Proportion agreement = label_agreement(defense, clean_images);
///     std::cout << 100 * (1 - agreement.value()) << " points of accuracy at most\n";
///
/// \param defense the defended model, with the victim inside
/// \param images uint8 N×C×H×W
/// \param show_progress shows a progress bar on standard error
/// \return the number of images with equal answers, out of N
/// \throws Error if the images do not fit the defense
template <DefendedClassifier D>
metrics::Proportion label_agreement(const D& defense, const at::Tensor& images, bool show_progress = false) {
  detail::check_images("images", defense.task().image, images);
  detail::EvaluationProgress progress("agreement", images.size(0), show_progress);
  const at::Tensor same = map_batches(
      [&](const at::Tensor& x) { return defense.undefended(x).argmax(1).eq(defense.forward(x).argmax(1)); },
      images, defense.device(), progress);
  progress.finish();
  return {.hits = same.defined() ? same.sum().template item<std::int64_t>() : 0, .n = images.size(0)};
}

}  // namespace refine
