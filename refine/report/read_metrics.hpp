#pragma once

#include <filesystem>

#include <refine/core/error.hpp>
#include <refine/report/defense_report.hpp>

namespace refine::report {

/// Reads a `metrics.json` (schema 1) back: all that it holds, which is all of the report but its image sheet.
/// Figures are made again from the counts; keys that are not known, as of a later version, are passed over.
/// \throws Error naming the file and the key where it cannot be read, or contradicts itself
DefenseReport read_metrics(const std::filesystem::path& path);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/read_metrics_definitions.hpp>
#endif
