#pragma once

#include <optional>
#include <vector>

#include <refine/metrics/figures.hpp>
#include <refine/report/metrics_node.hpp>

/// A metrics file's figures, from their counts; what the counts do not bear out is refused.
namespace refine::report::detail {

metrics::Proportion read_proportion(const MetricsNode& node);

/// One a class, in their order. \param short_form of schema 2
std::vector<metrics::Lift> read_lifts(const MetricsNode& node, int classes, bool short_form);

/// \param short_form of matrices and lifts: that of schema 2
metrics::Figures read_figures(const MetricsNode& node, int classes, std::optional<int> target,
                              bool short_form);

}  // namespace refine::report::detail

#if !defined(REFINE_COMPILED)
#include <refine/report/read_figures_definitions.hpp>
#endif
