#pragma once

#include <nlohmann/json_fwd.hpp>

#include <algorithm>
#include <filesystem>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/images.hpp>

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

/// Renders the report as one self-contained page: no script, no external resource, every text
/// escaped.
///
/// \throws Error if the report is not complete (`check_complete`)
std::string html(const DefenseReport& report);

/// Escapes text for use as HTML text or as an attribute's value. Control characters, marks that change the
/// direction of writing, and bytes that are not UTF-8 are shown as `text::printable` shows them; line breaks and tabs
/// are kept.
std::string html_escape(std::string_view text);

/// Writes `metrics.json`, `report.html` and, if the report has images, `images.png`; else one of an earlier report is
/// removed.
///
/// \param report  the content
/// \param folder  where the files go; created if missing. Each file is either complete or absent.
/// \throws Error if the report is not complete (`check_complete`), or the folder cannot be written
inline void write_report(const DefenseReport& report, const std::filesystem::path& folder) {
  check_complete(report);
  files::write(folder / "metrics.json", metrics_text(report));
  if (!report.sheet.rows.empty() && !report.sheet.columns.empty()) {
    const int scale = std::max(1, 96 / std::max(report.sheet.height, 1));
    files::write(folder / "images.png", sheet_png(report.sheet, scale));
  } else {
    std::error_code absent;
    std::filesystem::remove(folder / "images.png", absent);  // of an earlier report
  }
  files::write(folder / "report.html", html(report));
}

/// Formats the metrics before and after the defense for a terminal: UTF-8, lines of at most 100
/// columns, each metric with its count and its 95 % interval. The last lines list what was not
/// measured, and give the verdict.
std::string terminal_table(const DefenseReport& report);

/// Writes the terminal table.
inline std::ostream& operator<<(std::ostream& out, const DefenseReport& report) {
  return out << terminal_table(report);
}

/// Formats several reports as one Markdown table, one row for each report, in their order.
///
/// The columns are attack, model, accuracy (BA), ASR, RA, largest lift and largest pair lift (before
/// → after), DER, and the number of test images. Shares are in percent, lifts in percentage points; what was not
/// measured is a dash. The columns are aligned in plain text, too.
std::string comparison_markdown(const std::vector<DefenseReport>& reports);

namespace detail {

/// True if the byte starts a UTF-8 character.
inline bool starts_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
}

/// Pads `text`, or cuts it with an ellipsis, to `width` UTF-8 characters.
///
/// Control characters are shown as `text::printable` shows them: a name from a file may contain escape sequences of a
/// terminal.
///
/// \param text  what to show
/// \param width  in characters, at least 1
/// \param right  true to align to the right
std::string fit_field(std::string_view text, int width, bool right = false);

}  // namespace detail

}  // namespace refine::report

namespace refine {

struct Evaluation;

/// Writes the terminal table: BA, ASR, RA, the largest lift, the moved share and the largest lift of
/// a pair before and after the defense, with counts and intervals, and DER.
std::ostream& operator<<(std::ostream& out, const Evaluation& evaluation);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/html.ipp>
#include <refine/report/impl/json.ipp>
#include <refine/report/impl/terminal.ipp>
#endif
