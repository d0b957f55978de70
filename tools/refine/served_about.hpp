#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tools/refine/alarm_setting.hpp"

namespace refine::cli {

/// What an exported file says of itself, as far as it is needed to use it.
struct About {
  std::vector<std::string> class_names;  ///< empty where nobody told them
  std::string model;
  std::optional<AlarmSetting> alarm;  ///< where it was set

  /// \param class_names_file replaces the names in the file, where it is given
  About(const nlohmann::ordered_json& json, const std::string& class_names_file);
};

/// The lines of a text file that are not empty.
std::vector<std::string> lines_of(const std::string& path);

}  // namespace refine::cli
