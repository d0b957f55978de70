#pragma once

// What read_metrics.hpp declares.

#include <refine/report/read_metrics.hpp>

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/metrics/der.hpp>
#include <refine/report/metrics_node.hpp>
#include <refine/report/read_figures.hpp>

namespace refine::report::detail {

REFINE_DEFINITION metrics::AlarmFigures read_alarm(const MetricsNode& node) {
  metrics::AlarmFigures a;
  a.threshold = node["threshold"].number();
  a.wanted_rate = node["wanted_rate"].number();
  if (!(a.wanted_rate >= 0 && a.wanted_rate < 1)) node["wanted_rate"].refuse("is no rate");
  if (!(a.threshold >= 0 && a.threshold <= 1)) node["threshold"].refuse("is no score");
  a.false_alarms = read_proportion(node["false_alarms"]);
  if (node.tells("detections")) a.detections = read_proportion(node["detections"]);
  if (node.tells("auroc")) {
    const MetricsNode area = node["auroc"];
    a.auroc = {.wins = area["wins"].number(),
               .triggered = area["triggered"].count(),
               .clean = area["clean"].count()};
    const double pairs = static_cast<double>(a.auroc->triggered) * static_cast<double>(a.auroc->clean);
    if (!(a.auroc->wins >= 0 && a.auroc->wins <= pairs)) area["wins"].refuse("is not 0 to {}", pairs);
    area["value"].require_figure(a.auroc->value());
  }
  return a;
}

REFINE_DEFINITION metrics::ScanEntry read_scan_entry(const MetricsNode& node, int classes, bool short_form) {
  metrics::ScanEntry entry{.trigger = node["trigger"].text(),
                           .before = read_lifts(node["before"]["lifts"], classes, short_form),
                           .after = read_lifts(node["after"]["lifts"], classes, short_form),
                           .local = node["local"].yes()};
  for (std::size_t c = 0; c < entry.before.size(); ++c) {
    if (entry.before[c].n == entry.after[c].n && entry.before[c].without_trigger == 0) continue;
    node["before"]["lifts"][c].refuse("is not of images that the victim calls otherwise, the same as after");
  }
  return entry;
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_DEFINITION DefenseReport read_metrics(const std::filesystem::path& path) {
  const auto parsed = nlohmann::json::parse(file_bytes(path), nullptr, /*allow_exceptions=*/false);
  const detail::MetricsNode file(path, parsed);
  if (!parsed.is_object()) file.refuse("is no JSON object");
  const auto schema = file["schema"].whole(0, 1'000'000);
  if (schema != 1 && schema != 2) file["schema"].refuse("is not 1 or 2, which are known here");
  const bool short_form = schema == 2;

  DefenseReport r;
  r.title = file["title"].text();
  r.dataset = file["dataset"].text();
  r.model = file["model"].text();
  r.attack = file["attack"].text();
  const auto names = file["class_names"];
  for (std::size_t c = 0; c < names.size(); ++c) r.class_names.push_back(names[c].text());
  const auto classes = static_cast<int>(file["classes"].whole(0, short_form ? 30'000 : 10'000'000));
  std::optional<int> target;
  if (file.tells("target")) target = static_cast<int>(file["target"].whole(0, classes - 1));
  if (file.tells("before")) r.before = detail::read_figures(file["before"], classes, target, short_form);
  if (file.tells("after")) r.after = detail::read_figures(file["after"], classes, target, short_form);
  file["der"].require_figure(metrics::defense_effectiveness(r.before, r.after));
  if (file.tells("agreement")) r.agreement = detail::read_proportion(file["agreement"]);
  if (file.tells("alarm")) r.alarm = detail::read_alarm(file["alarm"]);
  if (file.tells("scan")) {
    const auto scan = file["scan"];
    for (std::size_t i = 0; i < scan.size(); ++i) r.scan.push_back(detail::read_scan_entry(scan[i], classes, short_form));
  }
  const auto facts = file["facts"];
  for (std::size_t i = 0; i < facts.size(); ++i) {
    r.facts.emplace_back(facts[i]["name"].text(), facts[i]["value"].text());
  }
  const auto curves = file["curves"];
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const auto numbers = [&](const char* key) {
      std::vector<double> values;
      const auto list = curves[i][key];
      for (std::size_t k = 0; k < list.size(); ++k) values.push_back(list[k].number());
      return values;
    };
    r.curves.push_back({.name = curves[i]["name"].text(),
                        .unit = curves[i]["unit"].text(),
                        .x_label = curves[i]["x_label"].text(),
                        .x = numbers("x"),
                        .y = numbers("y")});
  }
  try {
    require_complete(r);
  } catch (const Error& error) {
    throw Error("{} [{}]", error.what(), path.string());
  }
  return r;
}

}  // namespace refine::report
