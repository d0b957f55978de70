#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <refine/core/detail/untrusted_json.hpp>
#include <refine/data/resize.hpp>
#include <refine/defend/measure.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/report/defense_report.hpp>

/// What defended files store about themselves, as JSON.
namespace refine::detail {

/// Returns a JSON document in one line. Bytes that are not UTF-8, which JSON cannot hold, become
/// U+FFFD.
inline std::string json_line(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

/// Returns the JSON of a text; null if the text is not JSON, or has too many levels.
inline nlohmann::ordered_json parse_json(const std::string& text) {
  auto json = parse_untrusted_json<nlohmann::ordered_json>(text);
  return json.is_discarded() ? nlohmann::ordered_json(nullptr) : json;
}

/// Returns the text under a key; empty if there is none.
inline std::string text_under(const std::map<std::string, std::string>& texts, const std::string& key) {
  const auto found = texts.find(key);
  return found == texts.end() ? std::string() : found->second;
}

/// Returns the JSON under a key; null if there is none.
inline nlohmann::ordered_json json_under(const std::map<std::string, std::string>& texts,
                                         const std::string& key) {
  return parse_json(text_under(texts, key));
}

/// Returns what `<<` prints of a recipe.
inline std::string recipe_text(const auto& recipe) {
  std::ostringstream out;
  out << recipe;
  return out.str();
}

/// Returns "0 3 1 2".
inline std::string numbers_text(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (const auto number : numbers) text += (text.empty() ? "" : " ") + std::to_string(number);
  return text;
}

inline nlohmann::ordered_json json_of(const AlarmSetting& alarm) {
  return {{"threshold", alarm.threshold},
          {"false_alarm_rate", alarm.rate},
          {"images", alarm.images},
          {"groups", alarm.groups}};
}

/// Returns the alarm that `json_of` wrote; nothing if `json` is not one.
inline std::optional<AlarmSetting> alarm_of(const nlohmann::ordered_json& json) {
  const auto number = [&](const char* key) -> std::optional<double> {
    if (!json.is_object() || !json.contains(key) || !json[key].is_number()) return std::nullopt;
    const double value = json[key].get<double>();
    return value >= 0 && value <= 1 ? std::optional(value) : std::nullopt;
  };
  const auto threshold = number("threshold"), rate = number("false_alarm_rate");
  if (!threshold || !rate) return std::nullopt;
  const auto count = [&](const char* key) -> std::int64_t {  // files of earlier versions have none
    return json.contains(key) && json[key].is_number_unsigned()
               ? static_cast<std::int64_t>(std::min<std::uint64_t>(json[key].get<std::uint64_t>(), 1 << 30))
               : 0;
  };
  AlarmSetting alarm{.threshold = *threshold, .rate = *rate, .images = count("images")};
  alarm.groups = std::min(count("groups"), alarm.images);
  return alarm;
}

/// Returns {"fit": "crop", "resize": 256}.
inline nlohmann::ordered_json json_of(const data::ResizeMode& resize) {
  using Kind = data::ResizeMode::Kind;
  nlohmann::ordered_json json = {{"fit", resize.kind == Kind::exact     ? "exact"
                                         : resize.kind == Kind::stretch ? "stretch"
                                                                        : "crop"}};
  if (resize.shorter_side > 0) json["resize"] = static_cast<unsigned>(resize.shorter_side);
  return json;
}

/// Returns the mode that `json_of` wrote; nothing if `json` is not an object.
inline std::optional<data::ResizeMode> resize_mode_of(const nlohmann::ordered_json& json) {
  if (!json.is_object()) return std::nullopt;
  const auto kind = json.find("fit"), side = json.find("resize");
  if (kind != json.end() && *kind == "exact") return data::ResizeMode::exact;
  if (kind != json.end() && *kind == "stretch") return data::ResizeMode::stretch;
  if (side == json.end() || !side->is_number_unsigned()) return data::ResizeMode::crop;
  const auto pixels = std::min<std::uint64_t>(side->get<std::uint64_t>(), 1 << 14);
  return pixels > 0 ? data::ResizeMode::resize_crop(static_cast<int>(pixels)) : data::ResizeMode::crop;
}

/// Returns the few figures that are stored in an exported file.
inline nlohmann::ordered_json headline(const report::DefenseReport& report) {
  const auto share = [](const metrics::Proportion& p) {
    return nlohmann::ordered_json{{"value", p.value()}, {"n", p.n}};
  };
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (report.agreement) json["agreement"] = share(*report.agreement);
  if (report.alarm) json["false_alarms"] = share(report.alarm->false_alarms);
  if (report::has_labels(report)) {
    json["ba"] = {{"before", share(report.before.ba)}, {"after", share(report.after.ba)}};
  }
  if (report::has_trigger(report)) {
    json["attack"] = report.attack;
    const auto lift = [&](const metrics::Lift& l) {
      return nlohmann::ordered_json{{"class", l.cls}, {"value", l.value()}, {"n", l.n}};
    };
    json["largest_lift"] = {{"before", lift(report.before.largest_lift)},
                            {"after", lift(report.after.largest_lift)}};
    if (report::has_pairs(report)) {
      const auto pair = [&](const metrics::PairLift& l) {
        nlohmann::ordered_json named = {{"truth", l.truth}};
        named.update(lift(l.lift));
        return named;
      };
      json["largest_pair_lift"] = {{"before", pair(report.before.largest_pair_lift)},
                                   {"after", pair(report.after.largest_pair_lift)}};
      json["moved"] = {{"before", share(report.before.moved)}, {"after", share(report.after.moved)}};
    }
    if (report.alarm && report.alarm->auroc) json["alarm_auroc"] = report.alarm->auroc->value();
  }
  if (report.gated) {
    nlohmann::ordered_json& gated = json["gated"];
    gated["agreement"] = share(report.gated->agreement);
    if (report::has_labels(report)) gated["ba"] = share(report.gated->metrics.ba);
    if (report::has_trigger(report)) {
      const metrics::Lift& largest = report.gated->metrics.largest_lift;
      gated["largest_lift"] = {{"class", largest.cls}, {"value", largest.value()}, {"n", largest.n}};
    }
  }
  return json;
}

}  // namespace refine::detail
