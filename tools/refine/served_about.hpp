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
  std::optional<AlarmSetting> alarm;     ///< where it was set
  nlohmann::ordered_json preprocessing;  ///< what happened to images of another size; null: not known

  /// \param class_names_file replaces the names in the file, where it is given
  About(const nlohmann::ordered_json& json, const std::string& class_names_file);
};

}  // namespace refine::cli
