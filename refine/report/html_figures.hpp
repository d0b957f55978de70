#pragma once

#include <string>

#include <refine/report/defense_report.hpp>

namespace refine::report {

namespace detail {

std::string html_interval(const metrics::Interval& i);

}  // namespace detail

/// The table of the largest lift, ASR, BA, RA and DER, before and after, and of the agreement: those that
/// were measured, and a word on those that were not. Empty when none was.
std::string html_figures(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/html_figures_definitions.hpp>
#endif
