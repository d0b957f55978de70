#pragma once

#include <optional>

#include <refine/metrics/auroc.hpp>
#include <refine/metrics/proportion.hpp>

namespace refine::metrics {

/// An alarm measured: its threshold was set on some clean images, its figures are of other ones.
struct AlarmFigures {
  double threshold = 0;          ///< a score above it is an alarm
  double wanted_rate = 0;        ///< of false alarms, on the images that the threshold was set on
  Proportion false_alarms = {};  ///< clean images with an alarm
  std::optional<Proportion> detections = std::nullopt;  ///< triggered images with an alarm
  std::optional<Auroc> auroc = std::nullopt;            ///< triggered against clean, whatever the threshold

  friend bool operator==(const AlarmFigures&, const AlarmFigures&) = default;
};

}  // namespace refine::metrics
