#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include <refine/metrics/figures.hpp>
#include <refine/report/defense_report.hpp>

namespace refine::report {

/// Returns every count and figure of the report; the README lists the keys. What is not a number, or was not
/// measured, is null. With more than 100 classes (schema 2) a matrix lists its counts that are not 0, as
/// [true class, predicted class, count], and a lift is [with trigger, without, gained, lost, images]: so the
/// size grows with the images and the classes, not with the classes squared.
nlohmann::ordered_json metrics_json(const DefenseReport& r);

/// The figures of one classifier under one attack, as they stand in a report's `before` and `after`.
nlohmann::ordered_json figures_json(const metrics::Figures& figures);

/// Returns such JSON as text, indented, with a line a matrix row.
std::string metrics_text(const nlohmann::ordered_json& json);
std::string metrics_text(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/metrics_json_definitions.hpp>
#endif
