#pragma once

#include <refine/report/detail/metrics_node.hpp>
#include <refine/report/render.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/detail/untrusted_json.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/report/verdict.hpp>

namespace refine::report {

namespace detail {

using Json = nlohmann::ordered_json;

/// True if matrices and lifts of this many classes are written in the short form of schema 2.
inline bool uses_short_form(std::size_t classes) {
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

inline Json json(const metrics::PairLift& l) {
  Json pair = {{"truth", l.truth}};
  pair.update(json(l.lift));
  pair["interval"] = json(l.interval());
  pair["pairs"] = l.pairs;
  return pair;
}

inline Json json(const std::vector<metrics::Lift>& lifts) {
  Json list = Json::array();
  const bool rows = uses_short_form(lifts.size());
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
  if (uses_short_form(static_cast<std::size_t>(m.rows()))) {
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

inline Json json(const metrics::AttackMetrics& f) {
  if (f.classes == 0) return nullptr;
  return {{"ba", json(f.ba)},
          {"asr", json(f.asr)},
          {"ra", json(f.ra)},
          {"moved", json(f.moved)},
          {"largest_lift", json(f.largest_lift)},
          {"largest_pair_lift", json(f.largest_pair_lift)},
          {"lifts", json(f.lifts)},
          {"confusion",
           {{"clean", json(f.clean)}, {"triggered", json(f.triggered)}, {"unchanged", json(f.unchanged)}}}};
}

inline Json json(std::optional<int> target) {
  return target ? Json(*target) : Json(nullptr);
}

/// Lists a target that depends on the class; null for any other.
inline Json targets_json(const metrics::Target& target) {
  if (target.by_class().empty()) return nullptr;
  Json list = Json::array();
  for (const std::optional<int>& of_class : target.by_class()) list.push_back(json(of_class));
  return list;
}

inline Json json(const metrics::AlarmMetrics& a) {
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
          {"calibration", a.calibration_groups > 0 ? Json{{"images", a.calibration_images},
                                                          {"groups", a.calibration_groups},
                                                          {"interval", json(a.promised_rate())}}
                                                   : Json(nullptr)},
          {"false_alarms", json(a.false_alarms)},
          {"detections", a.detections ? json(*a.detections) : Json(nullptr)},
          {"auroc", std::move(auroc)},
          {"detected_at_1", a.detected_at_1 ? json(*a.detected_at_1) : Json(nullptr)},
          {"detected_at_5", a.detected_at_5 ? json(*a.detected_at_5) : Json(nullptr)}};
}

inline Json json(const metrics::ScanEntry& e) {
  const auto side = [](const std::vector<metrics::Lift>& lifts) -> Json {
    return {{"largest_lift", json(metrics::max_lift_by_share(lifts))}, {"lifts", json(lifts)}};
  };
  Json entry = {
      {"trigger", e.trigger}, {"local", e.local}, {"before", side(e.before)}, {"after", side(e.after)}};
  if (!e.gated.empty()) entry["gated"] = side(e.gated);
  return entry;
}

inline Json json(const metrics::GatedMetrics& g) {
  Json curve = Json::array();
  for (const metrics::GatedPoint& p : g.curve) {
    curve.push_back({{"threshold", number(p.threshold)},
                     {"alarms", json(p.alarms)},
                     {"agreement", json(p.agreement)},
                     {"ba", json(p.ba)},
                     {"asr", json(p.asr)},
                     {"largest_lift", json(p.largest_lift)},
                     {"largest_pair_lift", json(p.largest_pair_lift)}});
  }
  return {{"threshold", number(g.threshold)},
          {"alarms", json(g.alarms)},
          {"agreement", json(g.agreement)},
          {"metrics", json(g.metrics)},
          {"curve", std::move(curve)}};
}

inline std::string compact(const Json& j) {
  return refine::text::escape_json_controls(j.dump(-1, ' ', false, Json::error_handler_t::replace));
}

/// Appends indented JSON to `text`. A value without objects, such as a matrix row or an interval,
/// stays on one line.
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

REFINE_INLINE bool MetricsNode::is_null() const {
  return value_.is_null();
}

REFINE_INLINE bool MetricsNode::has(const char* key) const {
  return value_.is_object() && value_.contains(key);
}

REFINE_INLINE bool MetricsNode::has_value(const char* key) const {
  return has(key) && !value_[key].is_null();
}

REFINE_INLINE MetricsNode MetricsNode::operator[](const char* key) const {
  if (!has(key)) refuse("has no key '{}'", key);
  return {file_, value_[key], path_.empty() ? key : fmt::format("{}.{}", path_, key)};
}

REFINE_INLINE std::size_t MetricsNode::size() const {
  if (!value_.is_array()) refuse("not an array");
  return value_.size();
}

REFINE_INLINE MetricsNode MetricsNode::operator[](std::size_t i) const {
  if (i >= size()) refuse("has {} entries", size());
  return {file_, value_[i], fmt::format("{}[{}]", path_, i)};
}

REFINE_INLINE std::string MetricsNode::text() const {
  if (!value_.is_string()) refuse("not a string");
  return value_.get<std::string>();
}

REFINE_INLINE bool MetricsNode::boolean() const {
  if (!value_.is_boolean()) refuse("must be true or false");
  return value_.get<bool>();
}

REFINE_INLINE double MetricsNode::number() const {
  if (value_.is_null()) return std::numeric_limits<double>::quiet_NaN();
  if (!value_.is_number()) refuse("not a number");
  return value_.get<double>();
}

REFINE_INLINE std::int64_t MetricsNode::integer(std::int64_t low, std::int64_t high) const {
  if (!value_.is_number_integer()) refuse("not an integer");
  const auto number = value_.get<std::int64_t>();
  if ((value_.is_number_unsigned() && value_.get<std::uint64_t>() > std::uint64_t(high)) || number < low ||
      number > high) {
    refuse("must be between {} and {}, got {}", low, high, value_.dump());
  }
  return number;
}

REFINE_INLINE void MetricsNode::check_equals(double computed) const {
  const double stored = number();
  if (std::isnan(stored) == std::isnan(computed) && !(std::abs(stored - computed) > 1e-9)) return;
  refuse("is {}, but the counts give {}", stored, computed);
}

REFINE_INLINE metrics::Proportion read_proportion(const MetricsNode& node) {
  metrics::Proportion p;
  p.n = node["n"].count();
  p.hits = node["hits"].count(p.n);
  node["value"].check_equals(p.value());
  return p;
}

/// Reads the counts of a lift, which must agree with each other.
/// \param places of the four counts in the node
template <typename Place>
metrics::Lift read_counts(const MetricsNode& node, std::int64_t n, Place with_trigger, Place without_trigger,
                          Place gained, Place lost) {
  metrics::Lift lift{.n = n};
  lift.with_trigger = node[with_trigger].count(n);
  lift.without_trigger = node[without_trigger].count(n);
  lift.gained = node[gained].count(lift.with_trigger);
  lift.lost = node[lost].count(lift.without_trigger);
  if (lift.with_trigger - lift.without_trigger != lift.gained - lift.lost) {
    node.refuse("gains {} and loses {}, but goes from {} to {}", lift.gained, lift.lost, lift.without_trigger,
                lift.with_trigger);
  }
  return lift;
}

/// \param candidates lifts among which this one is the largest, which the file does not have
REFINE_INLINE metrics::Lift read_lift(const MetricsNode& node, int classes, std::int64_t candidates = 1) {
  metrics::Lift lift =
      read_counts(node, node["n"].count(), "with_trigger", "without_trigger", "gained", "lost");
  lift.candidates = candidates;
  lift.cls = static_cast<int>(node["class"].integer(0, classes - 1));
  node["value"].check_equals(lift.value());
  return lift;
}

REFINE_INLINE metrics::Lift read_lift_row(const MetricsNode& row, int cls) {
  if (row.size() != 5) row.refuse("must have 5 entries, got {}", row.size());
  metrics::Lift lift =
      read_counts(row, row[4].count(), std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{3});
  lift.cls = cls;
  return lift;
}

REFINE_INLINE std::vector<metrics::Lift> read_lifts(const MetricsNode& node, int classes, bool short_form) {
  if (node.size() != static_cast<std::size_t>(classes))
    node.refuse("must have one lift for each of {} classes, got {}", classes, node.size());
  std::vector<metrics::Lift> lifts;
  for (std::size_t c = 0; c < node.size(); ++c) {
    if (short_form) {
      lifts.push_back(read_lift_row(node[c], static_cast<int>(c)));
      continue;
    }
    lifts.push_back(read_lift(node[c], classes));
    if (lifts.back().cls != static_cast<int>(c))
      node[c]["class"].refuse("must be {}, got {}", c, lifts.back().cls);
  }
  return lifts;
}

/// Largest number of classes whose matrices are read, which a few bytes can claim: nine of them take 1 GB.
inline constexpr int max_matrix_classes = 3'700;

/// Reads a matrix from its nonzero counts, listed in row order (schema 2).
REFINE_INLINE metrics::ConfusionMatrix read_cells(const MetricsNode& node, int classes) {
  if (classes > max_matrix_classes)
    node.refuse("is of {} classes, more than the {} that are read", classes, max_matrix_classes);
  metrics::ConfusionMatrix counts = metrics::ConfusionMatrix::Zero(classes, classes);
  std::int64_t before = -1;
  for (std::size_t i = 0; i < node.size(); ++i) {
    const MetricsNode cell = node[i];
    if (cell.size() != 3) cell.refuse("must have 3 entries, got {}", cell.size());
    const std::int64_t r = cell[std::size_t{0}].integer(0, classes - 1), c = cell[1].integer(0, classes - 1);
    if (r * classes + c <= before) cell.refuse("is not in row order");
    before = r * classes + c;
    counts(r, c) = cell[2].count();
  }
  return counts;
}

/// Reads a classes × classes matrix, or an empty one.
REFINE_INLINE metrics::ConfusionMatrix read_matrix(const MetricsNode& node, int classes, bool short_form) {
  if (node.size() == 0) return {};
  if (short_form) return read_cells(node, classes);
  const auto side = static_cast<std::size_t>(classes);
  if (node.size() != side) node.refuse("must have one row for each of {} classes, got {}", side, node.size());
  for (std::size_t r = 0; r < side; ++r) {  // before memory is allocated for it
    if (node[r].size() != side)
      node[r].refuse("must have one count for each of {} classes, got {}", side, node[r].size());
  }
  metrics::ConfusionMatrix counts(classes, classes);
  for (int r = 0; r < classes; ++r) {
    const MetricsNode row = node[static_cast<std::size_t>(r)];
    for (int c = 0; c < classes; ++c) counts(r, c) = row[static_cast<std::size_t>(c)].count();
  }
  return counts;
}

REFINE_INLINE void check_same(const MetricsNode& node, const metrics::Proportion& computed) {
  if (const auto stored = read_proportion(node); stored != computed) {
    node.refuse("is {} of {}, but the confusion matrices give {} of {}", stored.hits, stored.n, computed.hits,
                computed.n);
  }
}

/// Reads `target`, or the list `targets` of an attack whose target depends on the class.
REFINE_INLINE metrics::Target read_target(const MetricsNode& file, int classes) {
  const auto read = [&](const MetricsNode& node) -> std::optional<int> {
    if (node.is_null()) return std::nullopt;
    return static_cast<int>(node.integer(0, classes - 1));
  };
  if (!file.has_value("targets")) return file.has("target") ? read(file["target"]) : std::nullopt;
  const MetricsNode list = file["targets"];
  if (file.has_value("target")) list.refuse("must be null beside a target of all classes");
  if (list.size() != static_cast<std::size_t>(classes))
    list.refuse("must have one target for each of {} classes, got {}", classes, list.size());
  std::vector<std::optional<int>> targets;
  for (std::size_t c = 0; c < list.size(); ++c) targets.push_back(read(list[c]));
  return metrics::Target::of_classes(std::move(targets));
}

REFINE_INLINE metrics::PairLift read_pair_lift(const MetricsNode& node, int classes) {
  return {.truth = static_cast<int>(node["truth"].integer(0, classes - 1)),
          .lift = read_lift(node, classes),
          .pairs = node["pairs"].count()};
}

/// Reads the moved share and the largest lift of a pair, which the matrices must confirm.
REFINE_INLINE void check_pairs(const MetricsNode& node, const metrics::AttackMetrics& f) {
  check_same(node["moved"], f.moved);
  const MetricsNode pair = node["largest_pair_lift"];
  if (read_pair_lift(pair, f.classes) != f.largest_pair_lift)
    pair.refuse("is not the largest lift of a pair in the confusion matrices");
}

REFINE_INLINE metrics::AttackMetrics read_figures(const MetricsNode& node, int classes,
                                                  const metrics::Target& target, bool short_form) {
  metrics::AttackMetrics f{.classes = classes, .target = target};
  const MetricsNode confusion = node["confusion"];
  f.clean = read_matrix(confusion["clean"], classes, short_form);
  f.triggered = read_matrix(confusion["triggered"], classes, short_form);
  metrics::detail::set_shares(f);
  if (f.clean.size() > 0 && f.triggered.size() > 0 && node["ba"]["n"].count() == 0)
    metrics::forget_labels(f);  // the victim's answers stood for them
  check_same(node["ba"], f.ba);
  check_same(node["asr"], f.asr);
  check_same(node["ra"], f.ra);
  if (f.triggered.size() == 0) {
    if (node["lifts"].size() > 0) node["lifts"].refuse("must be empty without triggered images");
    return f;
  }
  if (f.clean.size() == 0) node.refuse("has triggered images but no clean images");
  if (f.triggered.rowwise().sum() != f.clean.rowwise().sum()) {
    confusion.refuse("counts different images, clean and triggered");
  }
  const std::vector<metrics::Lift> stored = read_lifts(node["lifts"], classes, short_form);
  const bool has_pairs = node.has("moved");  // an earlier version wrote no pairs
  if (has_pairs) {
    // The short form of a matrix of zeros is an empty list.
    f.unchanged = short_form ? read_cells(confusion["unchanged"], classes)
                             : read_matrix(confusion["unchanged"], classes, short_form);
    if (f.unchanged.size() == 0 || (f.unchanged.array() > f.clean.array().min(f.triggered.array())).any())
      confusion["unchanged"].refuse("counts images that are not in the other matrices");
    metrics::detail::set_lifts(f);
  } else {
    f.lifts = metrics::detail::lifts_of(f.clean, f.triggered, f.clean, target);
    for (std::size_t c = 0; c < stored.size(); ++c) {  // not in the two matrices
      f.lifts[c].gained = stored[c].gained;
      f.lifts[c].lost = stored[c].lost;
    }
    f.largest_lift = metrics::largest_lift(f.lifts);
  }
  for (std::size_t c = 0; c < stored.size(); ++c) {
    if (stored[c] != f.lifts[c]) node["lifts"][c].refuse("contradicts the confusion matrices");
  }
  if (read_lift(node["largest_lift"], classes, f.largest_lift.candidates) != f.largest_lift) {
    node["largest_lift"].refuse("is not the largest of the lifts");
  }
  if (has_pairs) check_pairs(node, f);
  return f;
}

REFINE_INLINE metrics::AlarmMetrics read_alarm(const MetricsNode& node) {
  metrics::AlarmMetrics a;
  a.threshold = node["threshold"].number();
  a.wanted_rate = node["wanted_rate"].number();
  if (!(a.wanted_rate >= 0 && a.wanted_rate < 1))
    node["wanted_rate"].refuse("must be a rate in [0, 1), got {}", a.wanted_rate);
  if (!(a.threshold >= 0 && a.threshold <= 1))
    node["threshold"].refuse("must be a score in [0, 1], got {}", a.threshold);
  if (node.has_value("calibration")) {  // files of earlier versions do not have it
    a.calibration_images = node["calibration"]["images"].count();
    a.calibration_groups = node["calibration"]["groups"].count(a.calibration_images);
  }
  a.false_alarms = read_proportion(node["false_alarms"]);
  const auto share = [&](const char* key) {
    return node.has_value(key) ? std::optional(read_proportion(node[key])) : std::nullopt;
  };
  a.detections = share("detections");
  a.detected_at_1 = share("detected_at_1");
  a.detected_at_5 = share("detected_at_5");
  if (node.has_value("auroc")) {
    const MetricsNode area = node["auroc"];
    a.auroc = {.wins = area["wins"].number(),
               .triggered = area["triggered"].count(),
               .clean = area["clean"].count()};
    const double pairs = static_cast<double>(a.auroc->triggered) * static_cast<double>(a.auroc->clean);
    if (!(a.auroc->wins >= 0 && a.auroc->wins <= pairs))
      area["wins"].refuse("must be between 0 and {}, got {}", pairs, a.auroc->wins);
    area["value"].check_equals(a.auroc->value());
  }
  return a;
}

REFINE_INLINE metrics::GatedMetrics read_gated(const MetricsNode& node, int classes,
                                               const metrics::Target& target, bool short_form) {
  const auto read_threshold = [](const MetricsNode& threshold, double low) {
    const double value = threshold.number();
    if (!(value >= low && value <= 1)) threshold.refuse("must be in [{}, 1], got {}", low, value);
    return value;
  };
  metrics::GatedMetrics g{.threshold = read_threshold(node["threshold"], 0),
                          .alarms = read_proportion(node["alarms"]),
                          .agreement = read_proportion(node["agreement"])};
  if (node.has_value("metrics")) g.metrics = read_figures(node["metrics"], classes, target, short_form);
  const MetricsNode curve = node["curve"];
  const int known_classes = std::max(classes, 1);  // without classes, lifts are of class 0 over no images
  for (std::size_t i = 0; i < curve.size(); ++i) {
    const MetricsNode point = curve[i];
    g.curve.push_back({.threshold = read_threshold(point["threshold"], -1),
                       .alarms = read_proportion(point["alarms"]),
                       .agreement = read_proportion(point["agreement"]),
                       .ba = read_proportion(point["ba"]),
                       .asr = read_proportion(point["asr"]),
                       .largest_lift = read_lift(point["largest_lift"], known_classes, known_classes),
                       .largest_pair_lift = read_pair_lift(point["largest_pair_lift"], known_classes)});
  }
  return g;
}

REFINE_INLINE metrics::ScanEntry read_scan_entry(const MetricsNode& node, int classes, bool short_form) {
  metrics::ScanEntry entry{.trigger = node["trigger"].text(),
                           .before = read_lifts(node["before"]["lifts"], classes, short_form),
                           .after = read_lifts(node["after"]["lifts"], classes, short_form),
                           .local = node["local"].boolean()};
  if (node.has_value("gated")) entry.gated = read_lifts(node["gated"]["lifts"], classes, short_form);
  for (std::size_t c = 0; c < entry.before.size(); ++c) {
    if (entry.before[c].n == entry.after[c].n && entry.before[c].without_trigger == 0) continue;
    node["before"]["lifts"][c].refuse(
        "must cover the images that the victim assigns to other classes, the same images as after");
  }
  return entry;
}

}  // namespace detail

REFINE_INLINE nlohmann::ordered_json metrics_json(const DefenseReport& report) {
  using detail::Json;
  Json facts = Json::array();
  for (const auto& [name, value] : report.facts) facts.push_back({{"name", name}, {"value", value}});
  Json scan = Json::array();
  for (const auto& entry : report.scan) scan.push_back(detail::json(entry));
  Json curves = Json::array();
  for (const auto& c : report.curves) {
    Json y = Json::array();
    for (double value : c.y) y.push_back(detail::number(value));
    curves.push_back(
        {{"name", c.name}, {"unit", c.unit}, {"x_label", c.x_label}, {"x", c.x}, {"y", std::move(y)}});
  }
  const Verdict judged = verdict(report);
  return {{"schema", detail::uses_short_form(static_cast<std::size_t>(class_count(report))) ? 2 : 1},
          {"title", report.title},
          {"dataset", report.dataset},
          {"model", report.model},
          {"attack", report.attack},
          {"classes", class_count(report)},
          {"class_names", report.class_names},
          {"target", detail::json(report.after.target.single())},
          {"targets", detail::targets_json(report.after.target)},
          {"verdict", judged.word()},
          {"decision", judged.decision_word()},
          {"reason", judged.reason},
          {"finding", judged.finding},
          {"der", detail::number(metrics::defense_effectiveness(report.before, report.after))},
          {"before", detail::json(report.before)},
          {"after", detail::json(report.after)},
          {"agreement", report.agreement ? detail::json(*report.agreement) : Json(nullptr)},
          {"lost_classes", report.lost_classes},
          {"alarm", report.alarm ? detail::json(*report.alarm) : Json(nullptr)},
          {"answer", std::string(to_text(report.answer))},
          {"gated", report.gated ? detail::json(*report.gated) : Json(nullptr)},
          {"scan", std::move(scan)},
          {"facts", std::move(facts)},
          {"curves", std::move(curves)}};
}

REFINE_INLINE nlohmann::ordered_json figures_json(const metrics::AttackMetrics& figures) {
  return detail::json(figures);
}

REFINE_INLINE std::string metrics_text(const nlohmann::ordered_json& json) {
  std::string text;
  detail::print(json, 0, text);
  return text + '\n';
}

REFINE_INLINE std::string metrics_text(const DefenseReport& report) {
  return metrics_text(metrics_json(report));
}

REFINE_INLINE DefenseReport read_metrics(const std::filesystem::path& path) {
  constexpr std::uintmax_t max_bytes = std::uintmax_t{64} << 20;
  const auto parsed = refine::detail::parse_untrusted_json(files::read(path, max_bytes));
  const detail::MetricsNode file(path, parsed);
  if (!parsed.is_object()) file.refuse("not a JSON object");
  const auto schema = file["schema"].integer(0, 1'000'000);
  if (schema != 1 && schema != 2) file["schema"].refuse("must be 1 or 2, got {}", schema);
  const bool short_form = schema == 2;

  DefenseReport report;
  report.title = file["title"].text();
  report.dataset = file["dataset"].text();
  report.model = file["model"].text();
  report.attack = file["attack"].text();
  const auto names = file["class_names"];
  for (std::size_t c = 0; c < names.size(); ++c) report.class_names.push_back(names[c].text());
  const auto classes = static_cast<int>(file["classes"].integer(0, short_form ? 30'000 : 10'000'000));
  const metrics::Target target = detail::read_target(file, classes);
  if (file.has_value("before"))
    report.before = detail::read_figures(file["before"], classes, target, short_form);
  if (file.has_value("after"))
    report.after = detail::read_figures(file["after"], classes, target, short_form);
  file["der"].check_equals(metrics::defense_effectiveness(report.before, report.after));
  if (file.has_value("agreement")) report.agreement = detail::read_proportion(file["agreement"]);
  if (file.has_value("lost_classes")) {  // files of earlier versions do not have it
    const detail::MetricsNode lost = file["lost_classes"];
    for (std::size_t i = 0; i < lost.size(); ++i)
      report.lost_classes.push_back(
          static_cast<int>(lost[i].integer(0, 10'000'000)));  // `check_complete` knows the classes
  }
  if (file.has_value("alarm")) report.alarm = detail::read_alarm(file["alarm"]);
  if (file.has_value("gated")) report.gated = detail::read_gated(file["gated"], classes, target, short_form);
  if (file.has_value("answer")) {  // files of earlier versions do not have it
    const auto answer = parse_answer(file["answer"].text());
    if (!answer) file["answer"].refuse("must be defended or gated");
    report.answer = *answer;
  }
  if (file.has_value("scan")) {
    const auto scan = file["scan"];
    for (std::size_t i = 0; i < scan.size(); ++i)
      report.scan.push_back(detail::read_scan_entry(scan[i], classes, short_form));
  }
  const auto facts = file["facts"];
  for (std::size_t i = 0; i < facts.size(); ++i) {
    report.facts.emplace_back(facts[i]["name"].text(), facts[i]["value"].text());
  }
  const auto curves = file["curves"];
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const auto numbers = [&](const char* key) {
      std::vector<double> values;
      const auto list = curves[i][key];
      for (std::size_t k = 0; k < list.size(); ++k) values.push_back(list[k].number());
      return values;
    };
    report.curves.push_back({.name = curves[i]["name"].text(),
                             .unit = curves[i]["unit"].text(),
                             .x_label = curves[i]["x_label"].text(),
                             .x = numbers("x"),
                             .y = numbers("y")});
  }
  try {
    check_complete(report);
  } catch (const Error& error) {
    throw Error("cannot read {}: {}", path.string(), error.what());
  }
  return report;
}

}  // namespace refine::report
