#pragma once

// What html_confusion.hpp declares.

#include <refine/report/html_confusion.hpp>

#include <fmt/core.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/report/html_escape.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

REFINE_DEFINITION std::string html_confusion(std::string_view caption, const metrics::ConfusionMatrix& counts,
                                             const std::vector<std::string>& class_names,
                                             std::optional<int> target) {
  const int classes = static_cast<int>(counts.rows());
  const bool dense = classes > 12;  // no room for numbers
  std::string html = fmt::format(
      "<figure><figcaption>{}</figcaption><table class=\"heat{}\"><thead><tr><th class=\"corner\"></th>",
      html_escape(caption), dense ? " dense" : "");
  const auto name = [&](int c) { return html_escape(words::class_name(class_names, c)); };
  for (int c = 0; c < classes; ++c) {
    html += fmt::format("<th scope=\"col\" title=\"{}\"{}>{}</th>", name(c),
                        target == c ? " class=\"t\"" : "", dense && c % 5 != 0 ? "" : fmt::format("{}", c));
  }
  html += "</tr></thead><tbody>";
  for (int r = 0; r < classes; ++r) {
    const std::int64_t total = counts.row(r).sum();
    html += fmt::format(
        "<tr><th scope=\"row\" title=\"{0}\"{1}>{2}</th>", name(r), target == r ? " class=\"t\"" : "",
        dense ? (r % 5 == 0 ? fmt::format("{}", r) : "")
              : fmt::format("{}{}", class_names.empty() ? "" : fmt::format("{} ", r), name(r)));
    for (int c = 0; c < classes; ++c) {
      const auto n = counts(r, c);
      const double share = total == 0 ? 0 : static_cast<double>(n) / static_cast<double>(total);
      // A count that is not zero is never without a shade.
      const double shade = n == 0 ? 0 : 0.06 + 0.94 * share;
      html += fmt::format("<td style=\"--v:{:.2f}\"{}>{}</td>", shade, shade > 0.55 ? " class=\"hi\"" : "",
                          dense || n == 0 ? "" : fmt::format("{}", n));
    }
    html += "</tr>";
  }
  return html + "</tbody></table></figure>";
}

}  // namespace refine::report
