#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/metrics/confusion_matrix.hpp>

namespace refine::report {

/// Of more classes, a table is a blur and a heavy page.
inline constexpr int most_confusion_classes = 60;

/// A confusion matrix as a heat map: a row a true class, shaded by the share of that row.
std::string html_confusion(std::string_view caption, const metrics::ConfusionMatrix& counts,
                           const std::vector<std::string>& class_names, std::optional<int> target);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/html_confusion_definitions.hpp>
#endif
