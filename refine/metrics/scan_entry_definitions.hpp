#pragma once

// What scan_entry.hpp declares.

#include <refine/metrics/scan_entry.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <refine/core/compiled.hpp>

namespace refine::metrics {

REFINE_DEFINITION std::int64_t ScanEntry::images() const {
  std::int64_t sum = 0;
  for (const Lift& lift : before) sum += lift.n;
  return before.size() < 2 ? 0 : sum / static_cast<std::int64_t>(before.size() - 1);
}

REFINE_DEFINITION std::vector<Lift> scan_lifts(Labels own, Labels clean, Labels triggered, int classes) {
  require_labels("the victim's predictions", own, own.size(), classes);
  require_labels("the clean predictions", clean, own.size(), classes);
  require_labels("the triggered predictions", triggered, own.size(), classes);
  std::vector<Lift> lifts(static_cast<std::size_t>(classes));
  for (int c = 0; Lift & lift : lifts) {
    lift.cls = c++;
    lift.n = static_cast<std::int64_t>(own.size());
  }
  const auto at = [&](std::int64_t cls) -> Lift& { return lifts[static_cast<std::size_t>(cls)]; };
  for (std::size_t i = 0; i < own.size(); ++i) {
    --at(own[i]).n;
    const bool changed = clean[i] != triggered[i];
    if (triggered[i] != own[i]) {
      ++at(triggered[i]).with_trigger;
      if (changed) ++at(triggered[i]).gained;
    }
    if (clean[i] != own[i]) {
      ++at(clean[i]).without_trigger;
      if (changed) ++at(clean[i]).lost;
    }
  }
  return lifts;
}

REFINE_DEFINITION Lift strongest(const std::vector<Lift>& lifts) {
  Lift best;
  for (const Lift& lift : lifts) {
    if (lift.n > 0 && (best.n == 0 || lift.value() > best.value())) best = lift;
  }
  return best;
}

}  // namespace refine::metrics
