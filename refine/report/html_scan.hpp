#pragma once

#include <string>

#include <fmt/core.h>

#include <refine/report/defense_report.hpp>
#include <refine/report/html_escape.hpp>
#include <refine/report/html_figures.hpp>
#include <refine/report/scan_words.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

/// A table with a row for each guessed trigger: the class it lifts most, before and after.
inline std::string html_scan(const DefenseReport& r) {
  if (r.scan.empty()) return "";
  const auto cell = [&](const metrics::Lift& lift, bool found, const char* side) {
    if (lift.n == 0) return fmt::format("<td data-k=\"{}\">{}</td><td></td>", side, words::missing);
    const auto name = html_escape(words::class_name(r.class_names, lift.cls));
    return fmt::format("<td data-k=\"{0}\"{1}>{2} pt{3}</td><td data-k=\"at class\" title=\"{4}\">{4}</td>",
                       side, found ? " class=\"found\"" : "", words::hundredths(lift.value(), 1),
                       detail::html_interval(lift.interval()), name);
  };
  std::string html =
      "<table class=\"figures scan\"><thead><tr><th>trigger</th><th>lift before</th><th>at class</th>"
      "<th>lift after</th><th>at class</th></tr></thead><tbody>";
  for (const Guess& guess : guesses(r)) {
    html += fmt::format("<tr><th scope=\"row\">{}</th>{}{}</tr>", html_escape(guess.trigger),
                        cell(guess.before, guess.works_before(), "lift before"),
                        cell(guess.after, guess.works_after(), "lift after"));
  }
  return html + "</tbody></table>";
}

}  // namespace refine::report
