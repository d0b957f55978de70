#pragma once

// What metrics_json.hpp declares.

#include <refine/report/metrics_json.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/metrics/der.hpp>
#include <refine/report/verdict.hpp>

namespace refine::report::detail {

using Json = nlohmann::ordered_json;

/// Whether matrices and lifts of so many classes are written in their short form (schema 2).
inline bool is_sparse(std::size_t classes) {
  return classes > 100;
}

inline Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

inline Json json(const metrics::Interval& i) {
  return Json::array({number(i.low), number(i.high)});
}

inline Json json(const metrics::Proportion& p) {
  return {{"hits", p.hits}, {"n", p.n}, {"value", number(p.value())}, {"interval", json(p.wilson())}};
}

inline Json json(const metrics::Lift& l) {
  return {{"class", l.cls},
          {"with_trigger", l.with_trigger},
          {"without_trigger", l.without_trigger},
          {"gained", l.gained},
          {"lost", l.lost},
          {"n", l.n},
          {"value", number(l.value())},
          {"interval", json(l.interval())}};
}

inline Json json(const std::vector<metrics::Lift>& lifts) {
  Json list = Json::array();
  const bool rows = is_sparse(lifts.size());
  for (const auto& lift : lifts) {
    if (rows) {
      list.push_back({lift.with_trigger, lift.without_trigger, lift.gained, lift.lost, lift.n});
    } else {
      list.push_back(json(lift));
    }
  }
  return list;
}

inline Json json(const metrics::ConfusionMatrix& m) {
  Json rows = Json::array();
  if (is_sparse(static_cast<std::size_t>(m.rows()))) {
    for (Eigen::Index r = 0; r < m.rows(); ++r) {
      for (Eigen::Index c = 0; c < m.cols(); ++c) {
        if (m(r, c) != 0) rows.push_back({r, c, m(r, c)});
      }
    }
    return rows;
  }
  for (auto row : m.rowwise()) rows.push_back(std::vector<std::int64_t>(row.begin(), row.end()));
  return rows;
}

inline Json json(const metrics::Figures& f) {
  if (f.classes == 0) return nullptr;
  return {
      {"ba", json(f.ba)},       {"asr", json(f.asr)},
      {"ra", json(f.ra)},       {"largest_lift", json(f.largest_lift)},
      {"lifts", json(f.lifts)}, {"confusion", {{"clean", json(f.clean)}, {"triggered", json(f.triggered)}}}};
}

inline Json json(const metrics::AlarmFigures& a) {
  Json auroc = nullptr;
  if (a.auroc) {
    auroc = {{"wins", a.auroc->wins},
             {"triggered", a.auroc->triggered},
             {"clean", a.auroc->clean},
             {"value", number(a.auroc->value())},
             {"interval", json(a.auroc->interval())}};
  }
  return {{"threshold", a.threshold},
          {"wanted_rate", a.wanted_rate},
          {"false_alarms", json(a.false_alarms)},
          {"detections", a.detections ? json(*a.detections) : Json(nullptr)},
          {"auroc", std::move(auroc)}};
}

inline Json json(const metrics::ScanEntry& e) {
  const auto side = [](const std::vector<metrics::Lift>& lifts) -> Json {
    return {{"largest_lift", json(metrics::strongest(lifts))}, {"lifts", json(lifts)}};
  };
  return {{"trigger", e.trigger}, {"local", e.local}, {"before", side(e.before)}, {"after", side(e.after)}};
}

inline std::string compact(const Json& j) {
  return j.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Indented, but what holds no object stays on its line: a matrix row, an interval.
inline void print(const Json& j, int depth, std::string& text) {
  const bool flat =
      j.is_primitive() || j.empty() ||
      (j.is_array() && std::all_of(j.begin(), j.end(), [](auto& e) { return e.is_primitive(); })) ||
      (j.is_object() && depth > 1 &&
       std::none_of(j.begin(), j.end(), [](auto& e) { return e.is_object() || e.size() > 2; }));
  if (flat) {
    text += compact(j);
    return;
  }
  text += j.is_array() ? '[' : '{';
  bool first = true;
  for (const auto& item : j.items()) {
    text += (first ? "\n" : ",\n") + std::string(static_cast<std::size_t>(depth + 1) * 2, ' ');
    if (j.is_object()) text += compact(item.key()) + ": ";
    print(item.value(), depth + 1, text);
    first = false;
  }
  text += '\n' + std::string(static_cast<std::size_t>(depth) * 2, ' ') + (j.is_array() ? ']' : '}');
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_DEFINITION nlohmann::ordered_json metrics_json(const DefenseReport& r) {
  using detail::Json;
  Json facts = Json::array();
  for (const auto& [name, value] : r.facts) facts.push_back({{"name", name}, {"value", value}});
  Json scan = Json::array();
  for (const auto& entry : r.scan) scan.push_back(detail::json(entry));
  Json curves = Json::array();
  for (const auto& c : r.curves) {
    Json y = Json::array();
    for (double value : c.y) y.push_back(detail::number(value));
    curves.push_back(
        {{"name", c.name}, {"unit", c.unit}, {"x_label", c.x_label}, {"x", c.x}, {"y", std::move(y)}});
  }
  return {{"schema", detail::is_sparse(static_cast<std::size_t>(classes_of(r))) ? 2 : 1},
          {"title", r.title},
          {"dataset", r.dataset},
          {"model", r.model},
          {"attack", r.attack},
          {"classes", classes_of(r)},
          {"class_names", r.class_names},
          {"target", r.after.target ? Json(*r.after.target) : Json(nullptr)},
          {"verdict", verdict(r).word()},
          {"der", detail::number(metrics::defense_effectiveness(r.before, r.after))},
          {"before", detail::json(r.before)},
          {"after", detail::json(r.after)},
          {"agreement", r.agreement ? detail::json(*r.agreement) : Json(nullptr)},
          {"alarm", r.alarm ? detail::json(*r.alarm) : Json(nullptr)},
          {"scan", std::move(scan)},
          {"facts", std::move(facts)},
          {"curves", std::move(curves)}};
}

REFINE_DEFINITION nlohmann::ordered_json figures_json(const metrics::Figures& figures) {
  return detail::json(figures);
}

REFINE_DEFINITION std::string metrics_text(const nlohmann::ordered_json& json) {
  std::string text;
  detail::print(json, 0, text);
  return text + '\n';
}

REFINE_DEFINITION std::string metrics_text(const DefenseReport& r) {
  return metrics_text(metrics_json(r));
}

}  // namespace refine::report
