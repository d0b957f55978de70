#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <refine/attacks/by_name.hpp>
#include <refine/report/defense_report.hpp>

#include "tools/refine/alarm_setting.hpp"
#include "tools/refine/command.hpp"
#include "tools/refine/paths.hpp"

namespace refine::cli {

/// An attack as `refine attack` leaves it beside its victim, so that it can be made again.
struct AttackSpec {
  std::string name;
  int target = 0;
  std::optional<double> rate = std::nullopt;  ///< none: the attack's published one
  std::uint64_t seed = default_seed;

  attacks::AttackOptions options(const ImageShape& image) const;
  attacks::AnyAttack make(const ImageShape& image) const;
};

/// "BadNets, Blended, …": the attacks that have a name.
std::string attack_names();

void write_attack(const AttackSpec& spec, const std::filesystem::path& path);
AttackSpec read_attack(const std::filesystem::path& path);

/// `path` without its extension, and `.report` behind it.
std::filesystem::path report_folder(const std::filesystem::path& path);

/// The files that a report is written to. \param option that names the folder, or that it is derived from
std::vector<NamedPath> report_files(const std::string& option, const std::filesystem::path& folder);

/// `train` and `test` of a data set that is a folder; none of one that has a name.
std::vector<NamedPath> dataset_folders(const std::string& dataset);

/// The report to standard output, as a table or, with --json, whole; `files` are named below it.
void show(const Common& common, const report::DefenseReport& page,
          const std::vector<std::pair<std::string, std::filesystem::path>>& files);

/// The few figures that travel with an exported file.
nlohmann::ordered_json headline(const report::DefenseReport& page);

nlohmann::ordered_json json_of(const AlarmSetting& alarm);

/// "0 3 1 2"
std::string spaced(const std::vector<std::int64_t>& numbers);

}  // namespace refine::cli
