#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/check_task.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine {

/// A trigger to try, and what a report calls it.
struct NamedTrigger {
  std::string name;
  triggers::AnyTrigger trigger;
  bool local = true;  ///< changes a small part of the image only
};

/// Fourteen triggers as they were published, for images of one shape: patches, blended noise, warps and
/// rotations. Noise and warp are drawn from the seed: an attacker's own picture is another, and is missed.
/// Images too small for the larger patch or the warps do without them.
/// \throws Error when the shape is not fixed, or too small for a patch
std::vector<NamedTrigger> scan_catalogue(const ImageShape& image, std::uint64_t seed = default_seed);

namespace detail {

/// The classes that the victim and the defense give uint8 images N×C×H×W, each as `prepare` makes it, in
/// batches.
template <DefendedClassifier D, typename Prepare = std::identity>
std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>> both_classes(const D& defense,
                                                                             const at::Tensor& images,
                                                                             EvaluationProgress& progress,
                                                                             Prepare&& prepare = {}) {
  const at::Tensor classes = in_batches(
      [&](const at::Tensor& x) {
        return at::stack({defense.undefended(x).argmax(1), defense.forward(x).argmax(1)}, 1);
      },
      images, defense.device(), progress, prepare);
  if (!classes.defined()) return {};
  return {to_vector(classes.select(1, 0)), to_vector(classes.select(1, 1))};
}

}  // namespace detail

/// Guesses the trigger: stamps clean images with each of a catalogue and looks whether any class is lifted,
/// without and with the defense. Needs no labels, and no knowledge of the attack. A lift near 1 is a
/// backdoor found; a small one may be what any such change of the image does; and none says only that the
/// trigger is not in the catalogue.
/// \param images uint8 N×C×H×W, clean
/// \param show progress on standard error
/// \throws Error when the images do not fit the defense, or a trigger the images
template <DefendedClassifier D>
std::vector<metrics::ScanEntry> scan(const D& defense, const at::Tensor& images,
                                     const std::vector<NamedTrigger>& catalogue, bool show = false) {
  detail::require_images("images", defense.task().image, images);
  for (const NamedTrigger& entry : catalogue) {
    require_agreement(triggers::check_shape(entry.trigger.image, data::image_of(images)));
  }
  const int classes = defense.task().classes;
  if (classes < 1) {
    throw Error("the defense does not say how many classes it has; give its Task a number");
  }
  const auto passes = static_cast<std::int64_t>(1 + catalogue.size());
  detail::EvaluationProgress progress("scan", passes * images.size(0), show);
  const auto [own, clean] = detail::both_classes(defense, images, progress);
  std::vector<metrics::ScanEntry> entries;
  for (const auto& [name, trigger, local] : catalogue) {
    const auto stamp = [&t = trigger](const at::Tensor& some) { return triggers::stamp(t, some); };
    const auto [before, after] = detail::both_classes(defense, images, progress, stamp);
    entries.push_back({.trigger = name,
                       .before = metrics::scan_lifts(own, own, before, classes),
                       .after = metrics::scan_lifts(own, clean, after, classes),
                       .local = local});
  }
  progress.finish();
  return entries;
}

/// With the catalogue of common triggers for images of this shape.
template <DefendedClassifier D>
std::vector<metrics::ScanEntry> scan(const D& defense, const at::Tensor& images) {
  detail::require_images("images", defense.task().image, images);
  return scan(defense, images, scan_catalogue(data::image_of(images)));
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/evaluation/impl/scan.ipp>
#endif
