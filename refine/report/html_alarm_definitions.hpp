#pragma once

// What html_alarm.hpp declares.

#include <refine/report/html_alarm.hpp>

#include <fmt/core.h>

#include <string>
#include <string_view>

#include <refine/core/compiled.hpp>
#include <refine/report/html_figures.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

REFINE_DEFINITION std::string html_alarm(const DefenseReport& r) {
  if (!r.alarm) return "";
  const metrics::AlarmFigures& alarm = *r.alarm;
  const auto row = [](std::string_view name, std::string_view meaning, std::string_view value,
                      const metrics::Interval& interval) {
    return fmt::format("<tr><th scope=\"row\">{}<small>{}</small></th><td data-k=\"share\">{}{}</td></tr>",
                       name, meaning, value, detail::html_interval(interval));
  };
  const auto share = [&](std::string_view name, std::string_view of, const metrics::Proportion& p) {
    return row(name, fmt::format("{}; {} images", of, words::count(p.n)), words::percent(p.value(), 2),
               p.wilson());
  };
  std::string html = "<table class=\"figures\"><tbody>";
  html += share("False alarms",
                fmt::format("of clean images; the threshold, {:.4g}, was set for {} on other clean images",
                            alarm.threshold, words::percent(alarm.wanted_rate)),
                alarm.false_alarms);
  if (alarm.detections) html += share("Detections", "of triggered images", *alarm.detections);
  if (alarm.auroc) {
    html += row("AUROC",
                fmt::format("pairs in which the triggered image scores higher, whatever the threshold; {} "
                            "triggered and {} clean images",
                            words::count(alarm.auroc->triggered), words::count(alarm.auroc->clean)),
                words::percent(alarm.auroc->value(), 2), alarm.auroc->interval());
  }
  html += "</tbody></table>";
  if (!alarm.detections)
    html += "<p class=\"absent\">Not measured, without a trigger: detections, AUROC.</p>";
  return html;
}

}  // namespace refine::report
