#include "benchmarks/scenarios/table.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include <refine/baselines/by_name.hpp>
#include <refine/report/detail/format.hpp>
#include <refine/report/render.hpp>

namespace refine::scenarios {
namespace {

using Json = nlohmann::ordered_json;
using report::format::hundredths;

/// Returns a nested number of a row, such as `number(row, "after", "ba", "value")`. NaN if it was
/// not measured.
template <typename... Keys>
double number(const Json& row, const Keys&... keys) {
  const Json* node = &row;
  for (const char* key : {keys...}) {
    if (!node->is_object() || !node->contains(key)) return std::numeric_limits<double>::quiet_NaN();
    node = &(*node)[key];
  }
  return node->is_number() ? node->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

/// Returns the attack of a row, with its rate if that is not the default.
std::string attack_of(const Json& row) {
  const double rate = number(row, "rate");
  return row["attack"].get<std::string>() + (std::isnan(rate) ? "" : fmt::format(", {:g} %", 100 * rate));
}

/// Formats a metric before and after the defense.
std::string change(const Json& row, const char* figure) {
  const double before = number(row, "before", figure, "value"), after = number(row, "after", figure, "value");
  if (std::isnan(before) && std::isnan(after)) return std::string(report::format::missing);
  return fmt::format("{} → {}", hundredths(before, 1), hundredths(after, 1));
}

/// Formats the area under the ROC curve of the alarm.
std::string alarm_of(const Json& row) {
  const double auroc = number(row, "alarm", "auroc");
  return std::isnan(auroc) ? std::string(report::format::missing) : fmt::format("{:.3f}", auroc);
}

/// Formats the detections of the alarm at 1 % and at 5 % of false alarms.
std::string detections_of(const Json& row) {
  const double at_1 = number(row, "alarm", "detected_at_1"), at_5 = number(row, "alarm", "detected_at_5");
  if (std::isnan(at_1)) return std::string(report::format::missing);
  return fmt::format("{}, {}", hundredths(at_1, 1), hundredths(at_5, 1));
}

/// Formats the seconds of a training run.
std::string seconds(const Json& row, const char* training) {
  const double value = number(row, "seconds", training);
  return std::isnan(value) ? std::string(report::format::missing) : fmt::format("{:.0f}", value);
}

/// Appends the row of a scenario with one defense.
void add_row(Json& rows, const Scenario& scenario, std::string_view name, const Results& results) {
  const auto& [victim, defense, zero_point, benign, waking] = results;
  Json row = {{"attack", scenario.attack_name()},
              {"rate", scenario.rate ? Json(*scenario.rate) : Json()},
              {"network", scenario.network},
              {"defense", name},
              {"setting", victim.at("setting")},
              {"threads", victim.at("threads")},
              {"libtorch", victim.at("libtorch")},
              {"poisoned", victim.at("poisoned")},
              {"seconds", {{"victim", victim.at("seconds")}}},
              {"before", victim.at("figures")}};
  if (benign.is_object()) row["benign_ba"] = benign.at("figures").at("ba");
  if (defense.is_object()) {
    row["seconds"]["defense"] = defense.at("seconds");
    for (const char* key : {"after", "der", "alarm"}) {
      if (defense.contains(key)) row[key] = defense.at(key);
    }
  }
  if (zero_point.is_object()) {
    const Json& figures = zero_point.at("figures");
    row["zero_point"] = figures.at("largest_lift");
    row["pair_zero_point"] = figures.value("largest_pair_lift", Json());
  }
  if (name == "REFINE" && waking.is_object()) row["waking"] = waking.at("rows");
  rows.push_back(std::move(row));
}

}  // namespace

Json collect(const std::vector<Scenario>& scenarios, const Setting& setting) {
  Json rows = Json::array();
  for (const Scenario& scenario : scenarios) {
    const Results results = read_results(scenario, setting);
    if (!results.victim.is_object()) continue;
    // Without a defense, the row of the attack has the accuracy of a benign victim.
    if (scenario.defended || results.defense.is_object()) add_row(rows, scenario, "REFINE", results);
    for (const auto baseline : baselines::names()) {
      const Results others = read_results(scenario, std::string(baseline), setting);
      if (others.defense.is_object()) add_row(rows, scenario, baseline, others);
    }
  }
  return rows;
}

std::string markdown(const Json& rows) {
  std::string table =
      "| attack | network | defense | benign BA, % | BA, % | ASR, % | RA, % | DER, % | largest lift | zero point | "
      "pair lift | zero point | AUROC | TPR at 1, 5 % | seconds |\n"
      "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const Json& row : rows) {
    const bool attacked = row["attack"] != "Benign";
    const auto attack_only = [&](std::string text) {
      return attacked ? text : std::string(report::format::missing);
    };
    table += fmt::format(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} + {} |\n", attack_of(row),
        row["network"].get<std::string>(), row["defense"].get<std::string>(),
        hundredths(number(row, "benign_ba", "value"), 1), change(row, "ba"), attack_only(change(row, "asr")),
        attack_only(change(row, "ra")), hundredths(number(row, "der"), 1),
        attack_only(change(row, "largest_lift")), hundredths(number(row, "zero_point", "value"), 1),
        attack_only(change(row, "largest_pair_lift")), hundredths(number(row, "pair_zero_point", "value"), 1),
        alarm_of(row), detections_of(row), seconds(row, "victim"), seconds(row, "defense"));
  }
  return table;
}

std::string waking_markdown(const Json& rows) {
  std::string table;
  const auto add = [&](const Json& row, std::string_view knows, std::string_view aim, int levels,
                       const Json& figures, const Json& zero) {
    const auto figure = [](const Json& of, const char* name) {
      return hundredths(number(of, name, "value"), 1);
    };
    table += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", attack_of(row),
                         row["network"].get<std::string>(), knows, aim, levels, figure(figures, "asr"),
                         figure(zero, "asr"), figure(figures, "largest_lift"), figure(zero, "largest_lift"),
                         figure(figures, "largest_pair_lift"), figure(zero, "largest_pair_lift"));
  };
  for (const Json& row : rows) {
    if (!row.contains("waking")) continue;
    const Json trigger_alone = {{"largest_lift", row.value("zero_point", Json())},
                                {"largest_pair_lift", row.value("pair_zero_point", Json())}};
    add(row, "nothing: the trigger alone", "the target", 0, row.at("after"), trigger_alone);
    for (const Json& woken : row["waking"]) {
      add(row, woken["knows"].get<std::string>(), woken["aim"].get<std::string>(), woken["levels"].get<int>(),
          woken["figures"], woken["zero_point"]);
    }
  }
  if (table.empty()) return table;
  return "\n| attack | network | the adversary knows | and aims at | change, of 255 | ASR, % | zero point | largest lift | zero point | "
         "pair lift | zero point |\n| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n" +
         table;
}

std::string svg(const Json& rows) {
  constexpr int line = 26, top = 58, panel = 290, gap = 50;
  const auto name_of = [](const Json& row) {
    return attack_of(row) + ", " + row["network"].get<std::string>() +
           (row["defense"] == "REFINE" ? "" : ", " + row["defense"].get<std::string>());
  };
  std::size_t longest = 26;
  for (const Json& row : rows) longest = std::max(longest, name_of(row).size());
  const int left = 20 + static_cast<int>(7.3 * static_cast<double>(longest));
  const int height = top + line * static_cast<int>(rows.size()) + 40;
  const auto x = [&](int which, double share) {
    return left + which * (panel + gap) + panel * std::min(1.0, std::max(0.0, share));
  };
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" font-size=\"13\" fill=\"#24292f\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      left + 2 * panel + gap + 30, height);
  const char* titles[] = {"accuracy on clean images (BA), %", "largest lift over all classes, points"};
  for (int which : {0, 1}) {
    out +=
        fmt::format("<text x=\"{}\" y=\"20\" font-weight=\"bold\">{}</text>\n", x(which, 0), titles[which]);
    for (int tick = 0; tick <= 100; tick += 20) {
      const double position = x(which, tick / 100.0);
      out += fmt::format(
          "<line x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#d0d7de\"/><text x=\"{0}\" y=\"{3}\" "
          "text-anchor=\"middle\" font-size=\"11\">{4}</text>\n",
          position, top - 14, height - 34, height - 18, tick);
    }
  }
  int y = top;
  for (const Json& row : rows) {
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", left - 14, y + 5,
                       report::html_escape(name_of(row)));
    const char* figures[] = {"ba", "largest_lift"};
    for (int which : {0, 1}) {
      if (which == 1 && row["attack"] == "Benign") continue;
      const double before = number(row, "before", figures[which], "value"),
                   after = number(row, "after", figures[which], "value");
      if (!std::isnan(before) && !std::isnan(after)) {
        out += fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" stroke=\"#8c959f\"/>\n",
                           x(which, before), x(which, after), y, y);
      }
      if (!std::isnan(before)) {
        out += fmt::format(
            "<circle cx=\"{}\" cy=\"{}\" r=\"5\" fill=\"#fff\" stroke=\"#cf222e\" "
            "stroke-width=\"2\"/>\n",
            x(which, before), y);
      }
      if (!std::isnan(after)) {
        out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"5\" fill=\"#0969da\"/>\n", x(which, after), y);
      }
    }
    y += line;
  }
  out += fmt::format(
      "<text x=\"{}\" y=\"38\" font-size=\"12\"><tspan fill=\"#cf222e\">○</tspan> victim "
      "<tspan fill=\"#0969da\">●</tspan> defended</text>\n</svg>\n",
      left);
  return out;
}

}  // namespace refine::scenarios
