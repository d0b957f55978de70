#pragma once

// What html_figures.hpp declares.

#include <refine/report/html_figures.hpp>

#include <fmt/core.h>

#include <string>
#include <string_view>

#include <refine/core/compiled.hpp>
#include <refine/metrics/der.hpp>
#include <refine/report/html_escape.hpp>
#include <refine/report/not_measured.hpp>
#include <refine/report/words.hpp>

namespace refine::report::detail {

REFINE_DEFINITION std::string html_interval(const metrics::Interval& i) {
  if (!(i.low <= i.high)) return "";
  return fmt::format("<small>{} to {}</small>", words::hundredths(i.low), words::hundredths(i.high));
}

REFINE_DEFINITION std::string html_row(std::string_view name, std::string_view meaning,
                                       std::string_view before, std::string_view after,
                                       std::string_view change) {
  return fmt::format(
      "<tr><th scope=\"row\">{}<small>{}</small></th><td data-k=\"before\">{}</td><td "
      "data-k=\"after\">{}</td>"
      "<td data-k=\"change\">{}</td></tr>",
      name, meaning, before, after, change);
}

REFINE_DEFINITION std::string html_share(std::string_view name, std::string_view meaning,
                                         const metrics::Proportion& before,
                                         const metrics::Proportion& after) {
  const auto cell = [](const metrics::Proportion& p) {
    return words::percent(p.value(), 2) + html_interval(p.wilson());
  };
  const std::string of = after.n == 0 ? "not measured: no target class"
                                      : fmt::format("{}; {} images", meaning, words::count(after.n));
  return html_row(name, of, cell(before), cell(after),
                  words::signed_hundredths(after.value() - before.value()));
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_DEFINITION std::string html_figures(const DefenseReport& r) {
  if (!has_labels(r) && !has_trigger(r) && !r.agreement && r.after.classes == 0) return "";
  const auto lift = [&](const metrics::Lift& l) {
    const auto name = html_escape(words::class_name(r.class_names, l.cls));
    return fmt::format("{} pt{}<small title=\"{}\">at {}</small>", words::hundredths(l.value()),
                       detail::html_interval(l.interval()), name, name);
  };
  const auto& before = r.before.largest_lift;
  const auto& after = r.after.largest_lift;
  const std::string others = r.after.target ? "of triggered images of other classes" : "of triggered images";
  std::string rows;
  if (has_trigger(r)) {
    rows += detail::html_row(
        "Largest lift",
        fmt::format("most that the trigger adds to any class; {} images", words::count(after.n)),
        lift(before), lift(after), words::signed_hundredths(after.value() - before.value()));
    rows += detail::html_share("ASR", others + ", predicted as the target", r.before.asr, r.after.asr);
  }
  if (has_labels(r)) rows += detail::html_share("BA", "accuracy on clean images", r.before.ba, r.after.ba);
  if (has_trigger(r)) {
    rows += detail::html_share("RA", others + ", predicted as their own class", r.before.ra, r.after.ra);
    rows += detail::html_row("DER", "defense effectiveness rating; 50 % is no defense",
                             std::string(words::missing),
                             words::percent(metrics::defense_effectiveness(r.before, r.after), 2), "");
  }
  if (r.agreement) {
    rows += detail::html_row(
        "Agreement",
        fmt::format("clean images that victim and defense call alike, without labels; {} images",
                    words::count(r.agreement->n)),
        std::string(words::missing),
        words::percent(r.agreement->value(), 2) + detail::html_interval(r.agreement->wilson()), "");
  }
  std::string html;
  if (!rows.empty()) {
    html =
        "<table class=\"figures\"><thead><tr><th></th><th>before</th><th>after</th><th>change</th></tr>"
        "</thead><tbody>" +
        rows + "</tbody></table>";
  }
  const std::string absent = not_measured(r);
  return absent.empty() ? html : html + "<p class=\"absent\">" + absent + "</p>";
}

}  // namespace refine::report
