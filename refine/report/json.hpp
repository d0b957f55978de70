#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>

#include <refine/core/error.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/report/defense_report.hpp>

namespace refine::report {

/// Returns every count and figure of the report; the README lists the keys. What is not a number, or was not
/// measured, is null. With more than 100 classes (schema 2) a matrix lists its counts that are not 0, as
/// [true class, predicted class, count], and a lift is [with trigger, without, gained, lost, images]: so the
/// size grows with the images and the classes, not with the classes squared.
nlohmann::ordered_json metrics_json(const DefenseReport& r);

/// The figures of one classifier under one attack, as they stand in a report's `before` and `after`.
nlohmann::ordered_json figures_json(const metrics::AttackMetrics& figures);

/// Returns such JSON as text, indented, with a line a matrix row.
std::string metrics_text(const nlohmann::ordered_json& json);
std::string metrics_text(const DefenseReport& r);

/// Reads a `metrics.json` (schema 1) back: all that it holds, which is all of the report but its image sheet.
/// Figures are made again from the counts; keys that are not known, as of a later version, are passed over.
/// \throws Error naming the file and the key where it cannot be read, or contradicts itself
DefenseReport read_metrics(const std::filesystem::path& path);

}  // namespace refine::report

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/json.ipp>
#endif
