#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/evaluation/gated.hpp>
#include <refine/metrics/gated.hpp>
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
/// \param alarm_threshold of the gated answer, in [0, 1], whose lifts are measured, too; nothing: they are
///   not
/// \return one entry per trigger, in the catalogue's order
/// \throws Error if the images do not fit the defense, a trigger does not fit the images, or the
///   defense's number of classes is dynamic
template <DefendedClassifier D>
std::vector<metrics::ScanEntry> scan(const D& defense, const at::Tensor& images,
                                     const std::vector<NamedTrigger>& catalogue, bool show_progress = false,
                                     std::optional<double> alarm_threshold = std::nullopt) {
  data::check_images("images", defense.task().image, images);
  for (const NamedTrigger& entry : catalogue) {
    require_agreement(triggers::check_shape(entry.trigger.image, data::image_shape_of(images)));
  }
  const int classes = defense.task().classes;
  if (classes < 1)
    throw Error("scan: the defense's number of classes must be known (got {}); set it in its Task", classes);
  const auto passes = static_cast<std::int64_t>(1 + catalogue.size());
  detail::EvaluationProgress progress("scan", passes * images.size(0), show_progress);
  const metrics::PairedAnswers clean = paired_answers(defense, images, progress);
  std::vector<metrics::ScanEntry> entries;
  for (const auto& [name, trigger, local] : catalogue) {
    const auto stamp = [&t = trigger](const at::Tensor& batch) { return triggers::stamp(t, batch); };
    const metrics::PairedAnswers triggered = paired_answers(defense, images, progress, stamp);
    const auto lifts = [&](const std::vector<std::int64_t>& without, const std::vector<std::int64_t>& with) {
      return metrics::scan_lifts(clean.victim, without, with, classes);
    };
    entries.push_back({.trigger = name,
                       .before = lifts(clean.victim, triggered.victim),
                       .after = lifts(clean.defended, triggered.defended),
                       .local = local});
    if (alarm_threshold) {
      entries.back().gated = lifts(clean.gated(*alarm_threshold), triggered.gated(*alarm_threshold));
    }
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
