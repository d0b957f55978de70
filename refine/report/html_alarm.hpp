#pragma once

#include <string>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// The table of the alarm: false alarms, and detections and AUROC where there were triggered images.
std::string html_alarm(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/html_alarm_definitions.hpp>
#endif
