#pragma once

#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include <refine/evaluation/evaluate.hpp>
#include <refine/report/defense_report.hpp>

namespace refine::report {

namespace detail {

inline bool starts_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
}

/// `text` in a field of `width` characters (UTF-8); what does not fit is cut, with an ellipsis. A name from a
/// file may carry a terminal's control sequences: they become spaces.
std::string field(std::string_view text, int width, bool right = false);

}  // namespace detail

/// The figures before and after, for a terminal: lines of at most 100 columns, UTF-8, each figure with its
/// count and its 95 % interval. What was not measured is said in a line.
std::string terminal_table(const DefenseReport& r);

inline std::ostream& operator<<(std::ostream& out, const DefenseReport& r) {
  return out << terminal_table(r);
}

}  // namespace refine::report

namespace refine {

/// The terminal table: BA, ASR, RA and the largest lift, before and after, with their counts and intervals;
/// DER.
inline std::ostream& operator<<(std::ostream& out, const Evaluation& evaluation) {
  return out << report::terminal_table(
             {.class_names = evaluation.classes, .before = evaluation.before, .after = evaluation.after});
}

}  // namespace refine

namespace refine::report {

/// Several results as one Markdown table, a row a report, in their order: attack, model, accuracy (BA), ASR,
/// RA and largest lift before → after, DER, and the number of test images. Shares in per cent, lifts in
/// points; what was not measured is a dash. The columns line up in plain text too.
std::string comparison_markdown(const std::vector<DefenseReport>& reports);

}  // namespace refine::report

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/terminal.ipp>
#endif
