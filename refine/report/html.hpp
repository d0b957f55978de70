#pragma once

#include <string>
#include <string_view>

#include <refine/report/defense_report.hpp>

namespace refine::report {

namespace detail {

std::string section(std::string_view title, std::string_view note, std::string_view body);

}  // namespace detail

/// The report as one page that needs nothing else: no script, no external resource, every text escaped.
/// \throws Error when the parts of the report do not fit together
std::string html(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/html_definitions.hpp>
#endif
