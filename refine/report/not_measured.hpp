#pragma once

#include <string>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// Which of the figures there are not, and for want of what; empty when there are all.
inline std::string not_measured(const DefenseReport& r) {
  if (!has_labels(r)) return "Not measured, without labels: BA, ASR, RA, the lift of a given trigger, DER.";
  if (!has_trigger(r)) return "Not measured, without a trigger: ASR, RA, its largest lift, DER.";
  return "";
}

}  // namespace refine::report
