#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>

#include <refine/metrics/der.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/verdict.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

namespace detail {

inline bool starts_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
}

/// `text` in a field of `width` characters (UTF-8); what does not fit is cut, with an ellipsis.
inline std::string field(std::string_view text, int width, bool right = false) {
  std::string fit(text);
  const auto length = [](std::string_view s) { return std::count_if(s.begin(), s.end(), starts_character); };
  if (length(fit) > width) {
    while (length(fit) > width - 1) {
      while (!starts_character(fit.back())) fit.pop_back();
      fit.pop_back();
    }
    fit += "…";
  }
  const std::string space(static_cast<std::size_t>(width - length(fit)), ' ');
  return right ? space + fit : fit + space;
}

inline std::string table_line(std::array<std::string_view, 7> cells) {
  constexpr int widths[] = {12, 8, 10, 17, 10, 17, 9};
  constexpr bool right[] = {false, true, true, false, true, false, true};
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += "  ";
    line += field(cells[i], widths[i], right[i]);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + '\n';
}

inline std::string range(const metrics::Interval& i) {
  if (!std::isfinite(i.low)) return "";
  return words::hundredths(i.low) + " to " + words::hundredths(i.high);
}

inline std::string tally(std::int64_t n) {
  return n == 0 ? std::string(words::missing) : words::count(n);
}

inline std::string points(double share) {
  return std::isfinite(share) ? words::hundredths(share) + " pt" : std::string(words::missing);
}

inline std::string share_line(std::string_view name, const metrics::Proportion& before,
                              const metrics::Proportion& after) {
  return table_line({name, tally(after.n), words::percent(before.value(), 2), range(before.wilson()),
                     words::percent(after.value(), 2), range(after.wilson()),
                     words::signed_hundredths(after.value() - before.value())});
}

inline std::string table_title(std::string_view title) {
  std::string line = field(title, 99);
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n\n";
}

}  // namespace detail

/// The figures before and after, for a terminal: lines of at most 100 columns, UTF-8, each figure with its
/// count and its 95 % interval.
inline std::string terminal_table(const DefenseReport& r) {
  const auto& before = r.before.largest_lift;
  const auto& after = r.after.largest_lift;
  std::string text;
  if (!r.title.empty()) text += detail::table_title(r.title);
  text += detail::table_line({"", "n", "before", "95 %", "after", "95 %", "change"});
  text += detail::share_line("BA", r.before.ba, r.after.ba);
  text += detail::share_line("ASR", r.before.asr, r.after.asr);
  text += detail::share_line("RA", r.before.ra, r.after.ra);
  text += detail::table_line({"largest lift", detail::tally(after.n), detail::points(before.value()),
                              detail::range(before.interval()), detail::points(after.value()),
                              detail::range(after.interval()),
                              words::signed_hundredths(after.value() - before.value())});
  const auto name = [&](const metrics::Lift& l) {
    return l.n == 0 ? std::string() : words::class_name(r.class_names, l.cls);
  };
  text += detail::table_line({"  at class", "", "", name(before), "", name(after), ""});
  text += detail::table_line(
      {"DER", "", "", "", words::percent(metrics::defense_effectiveness(r.before, r.after), 2), "", ""});
  text += '\n' + verdict(r).headline + ".\n";
  return text;
}

inline std::ostream& operator<<(std::ostream& out, const DefenseReport& r) {
  return out << terminal_table(r);
}

}  // namespace refine::report
