#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/alarm_figures.hpp>
#include <refine/metrics/figures.hpp>
#include <refine/metrics/scan_entry.hpp>
#include <refine/report/curve.hpp>
#include <refine/report/image_sheet.hpp>

namespace refine::report {

/// Everything a page about a defense says. One thing measured is enough: the figures before and after, or,
/// without labels and without a trigger, an alarm, an agreement or a scan.
struct DefenseReport {
  std::string title = {};
  std::string dataset = {};
  std::string model = {};
  std::string attack = {};
  std::vector<std::string> class_names = {};  ///< one a class, or none: they are numbered then
  metrics::Figures before = {};               ///< the victim; of 0 classes: not measured
  metrics::Figures after = {};                ///< the defended model, on the same images
  std::optional<metrics::AlarmFigures> alarm = std::nullopt;
  std::optional<metrics::Proportion> agreement =
      std::nullopt;                           ///< clean images that both call alike, before and after
  std::vector<metrics::ScanEntry> scan = {};  ///< guessed triggers
  std::vector<Curve> curves = {};
  std::vector<std::pair<std::string, std::string>> facts =
      {};  ///< recipe, seed, permutation, device, in order
  ImageSheet sheet = {};
};

/// Of whatever was measured; 0 where nothing says.
int classes_of(const DefenseReport& r);

/// Whether the figures of clean, labelled images are there.
inline bool has_labels(const DefenseReport& r) {
  return r.before.ba.n > 0 && r.after.ba.n > 0;
}

/// Whether the figures of triggered, labelled images are there.
bool has_trigger(const DefenseReport& r);

/// \throws Error when the parts do not fit together, or nothing was measured
void require_complete(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/defense_report_definitions.hpp>
#endif
