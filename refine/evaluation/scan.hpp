#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine {

/// A trigger of a scan's catalogue.
struct NamedTrigger {
  std::string name;              ///< the name in reports
  triggers::AnyTrigger trigger;  ///< the trigger
  bool local = true;             ///< changes only a small part of the image
};

/// Returns fourteen triggers from papers, for images of one shape: patches, blended noise, warps
/// and rotations. Noise and warps are random, so an attacker's own noise or warp differs and is
/// missed.
/// \param image the shape, with all extents known. Images too small for the larger patch or the
///   warps get a catalogue without them.
/// \param seed of the noise and the warps
/// \throws Error if an extent is dynamic, or the image is too small for a patch
std::vector<NamedTrigger> scan_catalogue(const ImageShape& image, std::uint64_t seed = default_seed);

namespace detail {

/// Returns the classes that the victim and the defense give to uint8 images N×C×H×W, in batches.
/// \param prepare uint8 images → uint8 images, applied to each batch
template <DefendedClassifier D, typename Prepare = std::identity>
std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>> classify_both(const D& defense,
                                                                              const at::Tensor& images,
                                                                              EvaluationProgress& progress,
                                                                              Prepare&& prepare = {}) {
  const at::Tensor classes = map_batches(
      [&](const at::Tensor& x) {
        return at::stack({defense.undefended(x).argmax(1), defense.forward(x).argmax(1)}, 1);
      },
      images, defense.device(), progress, prepare);
  if (!classes.defined()) return {};
  return {to_vector(classes.select(1, 0)), to_vector(classes.select(1, 1))};
}

}  // namespace detail

/// Searches for the trigger: stamps each trigger of a catalogue on clean images and measures how
/// much it lifts each class, without and with the defense. Needs neither labels nor knowledge of
/// the attack.
///
/// A lift near 1 reveals a backdoor. A small lift may be the effect of any such change of the
/// image. If no trigger lifts a class, the attacker's trigger may still be one that is not in the
/// catalogue.
/// \param defense the defended model, with the victim inside
/// \param images uint8 N×C×H×W, clean
/// \param catalogue the triggers
/// \param show_progress shows a progress bar on standard error
/// \return one entry per trigger, in the catalogue's order
/// \throws Error if the images do not fit the defense, a trigger does not fit the images, or the
///   defense's number of classes is dynamic
template <DefendedClassifier D>
std::vector<metrics::ScanEntry> scan(const D& defense, const at::Tensor& images,
                                     const std::vector<NamedTrigger>& catalogue, bool show_progress = false) {
  data::check_images("images", defense.task().image, images);
  for (const NamedTrigger& entry : catalogue) {
    require_agreement(triggers::check_shape(entry.trigger.image, data::image_shape_of(images)));
  }
  const int classes = defense.task().classes;
  if (classes < 1)
    throw Error("scan: the defense's number of classes must be known (got {}); set it in its Task", classes);
  const auto passes = static_cast<std::int64_t>(1 + catalogue.size());
  detail::EvaluationProgress progress("scan", passes * images.size(0), show_progress);
  const auto [victim, defended] = detail::classify_both(defense, images, progress);
  std::vector<metrics::ScanEntry> entries;
  for (const auto& [name, trigger, local] : catalogue) {
    const auto stamp = [&t = trigger](const at::Tensor& batch) { return triggers::stamp(t, batch); };
    const auto [victim_triggered, defended_triggered] =
        detail::classify_both(defense, images, progress, stamp);
    entries.push_back({.trigger = name,
                       .before = metrics::scan_lifts(victim, victim, victim_triggered, classes),
                       .after = metrics::scan_lifts(victim, defended, defended_triggered, classes),
                       .local = local});
  }
  progress.finish();
  return entries;
}

/// Searches for the trigger with `scan_catalogue` for the shape of the images.
/// \param defense the defended model, with the victim inside
/// \param images uint8 N×C×H×W, clean
/// \return one entry per trigger
/// \throws Error if the images do not fit the defense, or are too small
template <DefendedClassifier D>
std::vector<metrics::ScanEntry> scan(const D& defense, const at::Tensor& images) {
  data::check_images("images", defense.task().image, images);
  return scan(defense, images, scan_catalogue(data::image_shape_of(images)));
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/evaluation/impl/scan.ipp>
#endif
