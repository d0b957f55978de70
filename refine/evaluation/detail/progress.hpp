#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include <refine/core/progress_meter.hpp>

namespace refine::detail {

/// Counts the images of an evaluation and, if asked to, shows the progress on standard error.
class EvaluationProgress {
 public:
  EvaluationProgress(std::string label, std::int64_t total, bool show) {
    if (show) meter_.emplace(std::move(label), total, "img");
  }

  /// Adds `images` to those that are done.
  void operator()(std::int64_t images) {
    done_ += images;
    if (meter_) meter_->update(done_);
  }

  /// Ends the line of the progress.
  void finish() {
    if (meter_) meter_->finish();
  }

 private:
  std::int64_t done_ = 0;
  std::optional<ProgressMeter> meter_;
};

}  // namespace refine::detail
