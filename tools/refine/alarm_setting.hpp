#pragma once

namespace refine::cli {

/// The threshold above which an answer is an alarm, and the share of clean images it was set to let through.
struct AlarmSetting {
  double threshold = 1;
  double rate = 0.05;
};

}  // namespace refine::cli
