#include "tools/refine/served_about.hpp"

#include <sstream>

#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>

namespace refine::cli {

std::vector<std::string> lines_of(const std::string& path) {
  std::istringstream text(file_bytes(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

About::About(const nlohmann::ordered_json& json, const std::string& class_names_file) {
  try {
    if (json.contains("class_names")) class_names = json["class_names"].get<std::vector<std::string>>();
    if (json.contains("model")) model = json["model"].get<std::string>();
    if (json.contains("alarm") && !json["alarm"].is_null()) {
      alarm = AlarmSetting{.threshold = json["alarm"].at("threshold"),
                           .rate = json["alarm"].at("false_alarm_rate")};
    }
  } catch (const nlohmann::ordered_json::exception&) {
    throw Error(
        "cannot use the file's refine.json: class_names, model or alarm are not as refine writes them; "
        "export "
        "it again");
  }
  if (!class_names_file.empty()) class_names = lines_of(class_names_file);
  const std::size_t classes = json.at("classes");
  if (!class_names.empty() && class_names.size() != classes) {
    throw Error("cannot use {} class names: the model predicts {} classes; give a name for each",
                class_names.size(), classes);
  }
}

}  // namespace refine::cli
