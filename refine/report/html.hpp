#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>

#include <refine/core/file.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/images.hpp>
#include <refine/report/json.hpp>

namespace refine::report {

/// Renders the report as one self-contained page: no script, no external resource, every text
/// escaped.
///
/// \throws Error if the report is not complete (`check_complete`)
std::string html(const DefenseReport& report);

/// Escapes text for use as HTML text or as an attribute's value. Control characters become spaces.
std::string html_escape(std::string_view text);

/// Writes `metrics.json`, `report.html` and, if the report has images, `images.png`.
///
/// \param report  the content
/// \param folder  where the files go; created if missing. Each file is either complete or absent.
/// \throws Error if the report is not complete (`check_complete`), or the folder cannot be written
inline void write_report(const DefenseReport& report, const std::filesystem::path& folder) {
  check_complete(report);
  write_file(folder / "metrics.json", metrics_text(report));
  if (!report.sheet.rows.empty() && !report.sheet.columns.empty()) {
    const int scale = std::max(1, 96 / std::max(report.sheet.height, 1));
    write_file(folder / "images.png", sheet_png(report.sheet, scale));
  }
  write_file(folder / "report.html", html(report));
}

}  // namespace refine::report

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/html.ipp>
#endif
