#include "tools/refine/results.hpp"

#include <iostream>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/report/json.hpp>
#include <refine/report/terminal.hpp>

namespace refine::cli {

namespace fs = std::filesystem;

attacks::AttackOptions AttackSpec::options(const ImageShape& image) const {
  return {.image = image, .target = target, .rate = rate, .seed = seed};
}

attacks::AnyAttack AttackSpec::make(const ImageShape& image) const {
  return attacks::by_name(name, options(image));
}

std::string attack_names() {
  return fmt::format("{}", fmt::join(attacks::names(), ", "));
}

void write_attack(const AttackSpec& spec, const fs::path& path) {
  nlohmann::ordered_json json = {{"attack", spec.name}, {"target", spec.target}, {"seed", spec.seed}};
  if (spec.rate) json["rate"] = *spec.rate;
  write_file(path, json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

AttackSpec read_attack(const fs::path& path) {
  const auto json = nlohmann::json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  try {
    AttackSpec spec{.name = json.at("attack"), .target = json.at("target"), .seed = json.at("seed")};
    if (json.contains("rate")) spec.rate = json.at("rate").get<double>();
    return spec;
  } catch (const nlohmann::json::exception&) {
    throw Error("cannot read {}: it does not tell attack, target and seed; make it with refine attack",
                path.string());
  }
}

fs::path report_folder(const fs::path& path) {
  fs::path folder = path;
  return folder.replace_extension(".report");
}

std::vector<NamedPath> report_files(const std::string& option, const fs::path& folder) {
  std::vector<NamedPath> files;
  for (const char* name : {"report.html", "metrics.json", "images.png", "log.jsonl"}) {
    files.push_back({option, folder / name});
  }
  return files;
}

std::vector<NamedPath> dataset_folders(const std::string& dataset) {
  std::error_code unknown;
  if (!fs::is_directory(dataset, unknown)) return {};
  return {{"--dataset", fs::path(dataset) / "train"}, {"--dataset", fs::path(dataset) / "test"}};
}

void show(const Common& common, const report::DefenseReport& page,
          const std::vector<std::pair<std::string, fs::path>>& files) {
  if (common.json) {
    auto json = report::metrics_json(page);
    for (const auto& [what, path] : files) json["files"][what] = path.lexically_normal().string();
    std::cout << report::metrics_text(json) << std::flush;
    return;
  }
  std::cout << page;
  std::size_t width = 0;
  for (const auto& [what, path] : files) width = std::max(width, what.size());
  if (!files.empty()) std::cout << '\n';
  for (const auto& [what, path] : files) {
    std::cout << what << std::string(width + 2 - what.size(), ' ') << path.lexically_normal().string()
              << '\n';
  }
  std::cout << std::flush;
}

nlohmann::ordered_json headline(const report::DefenseReport& page) {
  const auto share = [](const metrics::Proportion& p) {
    return nlohmann::ordered_json{{"value", p.value()}, {"n", p.n}};
  };
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (page.agreement) json["agreement"] = share(*page.agreement);
  if (page.alarm) json["false_alarms"] = share(page.alarm->false_alarms);
  if (report::has_labels(page)) {
    json["ba"] = {{"before", share(page.before.ba)}, {"after", share(page.after.ba)}};
  }
  if (report::has_trigger(page)) {
    json["attack"] = page.attack;
    const auto lift = [&](const metrics::Lift& l) {
      return nlohmann::ordered_json{{"class", l.cls}, {"value", l.value()}, {"n", l.n}};
    };
    json["largest_lift"] = {{"before", lift(page.before.largest_lift)},
                            {"after", lift(page.after.largest_lift)}};
    if (page.alarm && page.alarm->auroc) json["alarm_auroc"] = page.alarm->auroc->value();
  }
  return json;
}

nlohmann::ordered_json json_of(const AlarmSetting& alarm) {
  return {{"threshold", alarm.threshold}, {"false_alarm_rate", alarm.rate}};
}

std::string spaced(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (auto number : numbers) text += (text.empty() ? "" : " ") + std::to_string(number);
  return text;
}

}  // namespace refine::cli
