#pragma once

#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include <refine/evaluation/evaluate.hpp>
#include <refine/report/defense_report.hpp>

namespace refine::report {

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
/// The columns are attack, model, accuracy (BA), ASR, RA and largest lift (before → after), DER,
/// and the number of test images. Shares are in percent, lifts in percentage points; what was not
/// measured is a dash. The columns are aligned in plain text, too.
std::string comparison_markdown(const std::vector<DefenseReport>& reports);

namespace detail {

/// True if the byte starts a UTF-8 character.
inline bool starts_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
}

/// Pads `text`, or cuts it with an ellipsis, to `width` UTF-8 characters.
///
/// Replaces control characters by spaces: a name from a file may contain escape sequences of a
/// terminal.
///
/// \param text  what to show
/// \param width  in characters, at least 1
/// \param right  true to align to the right
std::string fit_field(std::string_view text, int width, bool right = false);

}  // namespace detail

}  // namespace refine::report

namespace refine {

/// Writes the terminal table: BA, ASR, RA and the largest lift before and after the defense, with
/// counts and intervals, and DER.
inline std::ostream& operator<<(std::ostream& out, const Evaluation& evaluation) {
  return out << report::terminal_table(
             {.class_names = evaluation.classes, .before = evaluation.before, .after = evaluation.after});
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/terminal.ipp>
#endif
