#pragma once

#include <string>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// The report as one page that needs nothing else: no script, no external resource, every text escaped.
/// \throws Error when the parts of the report do not fit together
std::string html(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/html_definitions.hpp>
#endif
