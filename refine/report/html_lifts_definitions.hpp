#pragma once

// What html_lifts.hpp declares.

#include <refine/report/html_lifts.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/report/html_escape.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

REFINE_DEFINITION std::string html_lifts(const DefenseReport& r) {
  const auto& before = r.before.lifts;
  const auto& after = r.after.lifts;
  if (!has_trigger(r) || before.empty() || before.size() != after.size()) return "";
  std::vector<std::size_t> order(before.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::string note;
  if (order.size() > most_lift_bars) {
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::max(before[a].value(), after[a].value()) > std::max(before[b].value(), after[b].value());
    });
    note = fmt::format("<p class=\"note\">The {} largest of {} classes; all are in metrics.json.</p>",
                       most_lift_bars, order.size());
    order.resize(most_lift_bars);
  }
  double low = 0, high = 0.05;  // not less than this, or noise would fill the page
  for (std::size_t c : order) {
    low = std::min({low, before[c].value(), after[c].value()});
    high = std::max({high, before[c].value(), after[c].value()});
  }
  const auto x = [&](double value) { return (value - low) / (high - low) * 1000; };
  const auto bar = [&](const metrics::Lift& lift, int top, const char* kind) {
    const double from = x(std::min(0.0, lift.value())), to = x(std::max(0.0, lift.value()));
    return fmt::format("<rect class=\"{}\" x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"7\"/>", kind, from,
                       top, to - from);
  };
  std::string html = note +
                     "<div class=\"key\"><span class=\"b\">before</span><span class=\"a\">after</span></div>"
                     "<table class=\"lifts\"><tbody>";
  for (std::size_t c : order) {
    const bool target = r.after.target == static_cast<int>(c);
    const auto name = html_escape(words::class_name(r.class_names, static_cast<int>(c)));
    html += fmt::format(
        "<tr{}><th scope=\"row\" title=\"{}\">{}{}</th><td><svg viewBox=\"0 0 1000 20\" "
        "preserveAspectRatio=\"none\" "
        "aria-hidden=\"true\">{}{}<rect class=\"zero\" x=\"{:.1f}\" y=\"0\" width=\"2\" "
        "height=\"20\"/></svg></td>"
        "<td class=\"num\"><span class=\"b\">{}</span><span class=\"a\">{}</span></td></tr>",
        target ? " class=\"target\"" : "", name, name, target ? "<small>target</small>" : "",
        bar(before[c], 2, "b"), bar(after[c], 11, "a"), std::max(0.0, x(0) - 1),
        words::signed_hundredths(before[c].value(), 1), words::signed_hundredths(after[c].value(), 1));
  }
  return html + "</tbody></table>";
}

}  // namespace refine::report
