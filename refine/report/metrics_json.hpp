#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include <refine/metrics/figures.hpp>
#include <refine/report/defense_report.hpp>

namespace refine::report {

/// Every count and figure of the report; the room's README lists the keys. What is not a number, or was not
/// measured, is null.
nlohmann::ordered_json metrics_json(const DefenseReport& r);

/// The figures of one classifier under one attack, as they stand in a report's `before` and `after`.
nlohmann::ordered_json figures_json(const metrics::Figures& figures);

/// The same as text for a file, a line a matrix row.
std::string metrics_text(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/metrics_json_definitions.hpp>
#endif
