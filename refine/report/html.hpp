#pragma once

#include <algorithm>
#include <filesystem>
#include <string>

#include <refine/core/file.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/images.hpp>
#include <refine/report/json.hpp>

namespace refine::report {

/// The report as one page that needs nothing else: no script, no external resource, every text escaped.
/// \throws Error when the parts of the report do not fit together
std::string html(const DefenseReport& r);

/// Writes `metrics.json`, `report.html` and, where there are images, `images.png` into a folder, which is
/// created. Each file is whole or absent. \throws Error when the report's parts do not fit together or the
/// folder cannot be written
inline void write_report(const DefenseReport& r, const std::filesystem::path& folder) {
  require_complete(r);
  write_file(folder / "metrics.json", metrics_text(r));
  if (!r.sheet.rows.empty() && !r.sheet.columns.empty()) {
    write_file(folder / "images.png", sheet_png(r.sheet, std::max(1, 96 / std::max(r.sheet.height, 1))));
  }
  write_file(folder / "report.html", html(r));
}

}  // namespace refine::report

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/html.ipp>
#endif
