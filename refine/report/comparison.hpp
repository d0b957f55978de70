#pragma once

#include <string>
#include <vector>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// Several results as one Markdown table, a row a report, in their order: attack, model, accuracy (BA), ASR,
/// RA and largest lift before → after, DER, and the number of test images. Shares in per cent, lifts in
/// points; what was not measured is a dash. The columns line up in plain text too.
std::string comparison_markdown(const std::vector<DefenseReport>& reports);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/comparison_definitions.hpp>
#endif
