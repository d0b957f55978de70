#pragma once

#include <vector>

#include <refine/training/observers.hpp>

namespace refine {

/// Keeps what each epoch came to.
struct History {
  std::vector<EpochInfo> epochs = {};

  void on_epoch(const EpochInfo& info) { epochs.push_back(info); }
};

}  // namespace refine
