#pragma once

#include <string>
#include <string_view>

#include <refine/metrics/der.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/html_escape.hpp>
#include <refine/report/not_measured.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

namespace detail {

std::string html_interval(const metrics::Interval& i);

std::string html_row(std::string_view name, std::string_view meaning, std::string_view before,
                     std::string_view after, std::string_view change);

std::string html_share(std::string_view name, std::string_view meaning, const metrics::Proportion& before,
                       const metrics::Proportion& after);

}  // namespace detail

/// The table of the largest lift, ASR, BA, RA and DER, before and after, and of the agreement: those that
/// were measured, and a word on those that were not. Empty when none was.
std::string html_figures(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/html_figures_definitions.hpp>
#endif
