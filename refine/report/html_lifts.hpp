#pragma once

#include <cstddef>
#include <string>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// So many classes have a bar; of more, those with the largest lifts, before or after.
inline constexpr std::size_t most_lift_bars = 24;

/// A table with the lift of each class as bars, before and after.
std::string html_lifts(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/html_lifts_definitions.hpp>
#endif
