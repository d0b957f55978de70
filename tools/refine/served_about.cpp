#include "tools/refine/served_about.hpp"

#include <refine/core/error.hpp>

#include "tools/refine/class_names.hpp"

namespace refine::cli {

About::About(const nlohmann::ordered_json& json, const std::string& class_names_file) {
  try {
    if (json.contains("class_names")) class_names = json["class_names"].get<std::vector<std::string>>();
    if (json.contains("preprocessing")) preprocessing = json["preprocessing"];
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
  if (!class_names_file.empty()) class_names = read_class_names(class_names_file);
  const std::size_t classes = json.at("classes");
  if (!class_names.empty() && class_names.size() != classes) {
    throw Error("cannot use {} class names: the model predicts {} classes; give a name for each",
                class_names.size(), classes);
  }
}

}  // namespace refine::cli
