#pragma once

#include <string>
#include <string_view>

#include <refine/report/base64.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/html_alarm.hpp>
#include <refine/report/html_confusion.hpp>
#include <refine/report/html_escape.hpp>
#include <refine/report/html_figures.hpp>
#include <refine/report/html_lifts.hpp>
#include <refine/report/html_scan.hpp>
#include <refine/report/html_style.hpp>
#include <refine/report/scan_words.hpp>
#include <refine/report/sheet_png.hpp>
#include <refine/report/svg_curve.hpp>
#include <refine/report/verdict.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

namespace detail {

/// Keeps a figure and its percent sign on one line.
std::string unbroken(std::string text);

std::string section(std::string_view title, std::string_view note, std::string_view body);

std::string html_matrices(const DefenseReport& r);

std::string html_sheet(const ImageSheet& sheet);

std::string html_curves(const DefenseReport& r);

std::string html_facts(const DefenseReport& r);

}  // namespace detail

/// The report as one page that needs nothing else: no script, no external resource, every text escaped.
/// \throws Error when the parts of the report do not fit together
std::string html(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/html_definitions.hpp>
#endif
