#pragma once

#include <fmt/core.h>

#include <cstdio>
#include <optional>
#include <string>

#include <refine/core/progress_meter.hpp>
#include <refine/training/observers.hpp>

namespace refine {

/// Shows a run's progress on standard error: a bar with rate and time left on a terminal, a line now and then
/// in a log.
class ProgressBar {
 public:
  explicit ProgressBar(std::FILE* out = stderr) : out_(out) {}

  void on_begin(const RunInfo& info) {
    epochs_ = info.epochs;
    accuracy_of_ = info.accuracy_of;
    note_.clear();
    meter_.emplace(std::string(info.name), info.images * info.epochs, "img", out_);
    meter_->update(0);
  }

  void on_step(const StepInfo& info) {
    if (!meter_) return;
    const std::string now = fmt::format("epoch {}/{}", info.epoch, epochs_);
    meter_->update(info.images, note_.empty() ? now : now + " (last: " + note_ + ")");
  }

  void on_epoch(const EpochInfo& info) {
    note_ = fmt::format("loss {:.3f}, {} {:.1f} %", info.loss, accuracy_of_, 100 * info.accuracy);
  }

  void on_end() {
    if (meter_) meter_->finish(fmt::format("epoch {0}/{0}: {1}", epochs_, note_));
    meter_.reset();
  }

 private:
  std::FILE* out_;
  int epochs_ = 0;
  std::string accuracy_of_;
  std::string note_;
  std::optional<ProgressMeter> meter_;
};

}  // namespace refine
