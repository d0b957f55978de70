#pragma once

#include <array>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>

#include <refine/metrics/der.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/not_measured.hpp>
#include <refine/report/scan_words.hpp>
#include <refine/report/verdict.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

namespace detail {

inline bool starts_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
}

/// `text` in a field of `width` characters (UTF-8); what does not fit is cut, with an ellipsis. A name from a
/// file may carry a terminal's control sequences: they become spaces.
std::string field(std::string_view text, int width, bool right = false);

std::string table_line(std::array<std::string_view, 7> cells);

std::string range(const metrics::Interval& i);

std::string tally(std::int64_t n);

std::string points(double share);

std::string share_line(std::string_view name, const metrics::Proportion& before,
                       const metrics::Proportion& after);

std::string table_title(std::string_view title);

std::string lift_lines(const DefenseReport& r);

/// A figure that there is of the defense alone.
std::string single_line(std::string_view name, const metrics::Proportion& p);

std::string alarm_lines(const metrics::AlarmFigures& alarm);

/// The guessed triggers that lift most; the page has all.
std::string scan_table(const DefenseReport& r);

}  // namespace detail

/// The figures before and after, for a terminal: lines of at most 100 columns, UTF-8, each figure with its
/// count and its 95 % interval. What was not measured is said in a line.
std::string terminal_table(const DefenseReport& r);

inline std::ostream& operator<<(std::ostream& out, const DefenseReport& r) {
  return out << terminal_table(r);
}

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/terminal_table_definitions.hpp>
#endif
