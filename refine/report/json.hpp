#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>

#include <refine/core/error.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/report/defense_report.hpp>

namespace refine::report {

/// Returns every count and metric of the report; the module's README lists the keys.
///
/// A value that is not a number or was not measured is null. With more than 100 classes (schema 2),
/// a matrix lists its nonzero counts as [true class, predicted class, count], and a lift is
/// [with_trigger, without_trigger, gained, lost, n]. The size then grows with the images and the
/// classes instead of with the square of the classes.
nlohmann::ordered_json metrics_json(const DefenseReport& report);

/// Returns the metrics of one classifier under one attack, as in a report's `before` and `after`.
/// Null if `figures` has 0 classes.
nlohmann::ordered_json figures_json(const metrics::AttackMetrics& figures);

/// Formats JSON as indented text, with one line for each row of a matrix.
std::string metrics_text(const nlohmann::ordered_json& json);

/// Returns `metrics_json(report)` as text: the content of `metrics.json`.
std::string metrics_text(const DefenseReport& report);

/// Reads a `metrics.json` (schema 1 or 2): the whole report except for its image sheet.
///
/// Recomputes every metric from its counts. Ignores unknown keys, which a later version may have
/// added.
///
/// \throws Error, with the file and the key, if the file cannot be read or contradicts itself
DefenseReport read_metrics(const std::filesystem::path& path);

}  // namespace refine::report

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/json.ipp>
#endif
