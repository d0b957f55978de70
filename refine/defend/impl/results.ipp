#pragma once

#include <refine/defend/results.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/detail/untrusted_json.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/defend/images.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/report/render.hpp>

namespace refine::detail {

/// True if a file has the weights of a defense, as `Defended::save` writes them.
inline bool is_saved_defense(const std::filesystem::path& weights) {
  try {
    const auto metadata = formats::read_safetensors(weights).metadata;
    const auto kind = metadata.find("refine");
    return kind != metadata.end() && (kind->second == "defense" || kind->second == "student");
  } catch (const Error&) {
    return false;
  }
}

/// Returns the name of the serving file that a report is of; "" if it does not have it.
inline std::string serving_file_of(const std::filesystem::path& report) {
  try {
    for (const auto& [name, value] : report::read_metrics(report / "metrics.json").facts) {
      if (name == serving_file_fact) return value;
    }
  } catch (const Error&) {
  }
  return "";
}

/// Returns the path of a file beside a serving file: its own extension is replaced, another part of its name is not.
inline std::filesystem::path beside_serving(std::filesystem::path serving, const char* extension) {
  for (const char* known : {".pt", ".pth", ".pt2", ".onnx", ".safetensors", ".report"}) {
    if (files::lower_extension(serving) == known) return serving.replace_extension(extension);
  }
  return serving += extension;
}

/// Appends the files of a name below a folder. Linked folders are not followed.
/// \throws Error if a folder cannot be listed
inline void find_files(const std::filesystem::path& folder, const char* name,
                       std::vector<std::filesystem::path>& found) {
  std::error_code failed;
  for (std::filesystem::directory_iterator entry(folder, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    std::error_code unknown;
    if (entry->is_directory(unknown) && !entry->is_symlink(unknown)) {
      find_files(entry->path(), name, found);
    } else if (entry->path().filename() == name) {
      found.push_back(entry->path());
    }
  }
  if (failed) throw Error("cannot list {}: {}; check its permissions", folder.string(), failed.message());
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE DefendedFiles DefendedFiles::beside(const std::filesystem::path& serving) {
  return {.serving = serving,
          .weights = detail::beside_serving(serving, ".safetensors"),
          .report = detail::beside_serving(serving, ".report")};
}

REFINE_INLINE void DefendedFiles::check_writable() const {
  if (serving.extension() == ".safetensors" || serving.extension() == ".report" || !serving.has_filename()) {
    throw Error(
        "cannot write {}: the weights and the report, which are beside it, have that name; specify --out defended.pt",
        serving.string());
  }
  std::error_code unknown;
  if (std::filesystem::exists(serving, unknown) && !std::filesystem::is_regular_file(serving, unknown)) {
    throw Error("cannot write {}: a folder or a device is in the way; specify another --out",
                serving.string());
  }
  if (files::exists(weights) && !detail::is_saved_defense(weights)) {
    throw Error(
        "cannot write {}: a file of that name has other content than the weights of a defense, which would be lost; "
        "specify another --out",
        weights.string());
  }
}

REFINE_INLINE void DefendedFiles::check_separate() const {
  if (!files::exists(weights)) return;
  const std::string owner = detail::serving_file_of(report);  // not in reports of earlier versions
  const std::vector<std::string> names =
      !owner.empty() ? std::vector{owner}
      : files::exists(serving)
          ? std::vector<std::string>{}
          : std::vector<std::string>{weights.stem().string() + ".pt", weights.stem().string() + ".pt2",
                                     weights.stem().string() + ".onnx"};
  for (const std::string& name : names) {
    const std::filesystem::path other = serving.parent_path() / std::filesystem::path(name).filename();
    if (other == serving || !files::exists(other)) continue;
    throw Error(
        "cannot write {}: its weights and its report would replace those of {}; specify another --out, or, for the "
        "same defense in another format, refine export",
        serving.string(), other.string());
  }
}

REFINE_INLINE std::filesystem::path result_folder(const std::filesystem::path& root,
                                                  const std::string& dataset, const std::string& network,
                                                  const std::string& attack) {
  return root / dataset_name(dataset) / network / attack;
}

REFINE_INLINE std::vector<std::filesystem::path> find_metrics(const std::filesystem::path& path) {
  std::error_code unknown;
  if (!std::filesystem::is_directory(path, unknown)) return {path};
  std::vector<std::filesystem::path> found;
  detail::find_files(path, "metrics.json", found);
  if (found.empty()) {
    throw Error("cannot report on {}: no metrics.json is below it; name a folder of results", path.string());
  }
  std::ranges::sort(found);
  return found;
}

REFINE_INLINE attacks::AttackOptions AttackSpec::options(const ImageShape& image) const {
  return {.image = image, .target = target, .source = source, .rate = rate, .seed = seed};
}

REFINE_INLINE attacks::AnyAttack AttackSpec::make(const ImageShape& image) const {
  return attacks::by_name(name, options(image));
}

REFINE_INLINE void write_attack(const AttackSpec& spec, const std::filesystem::path& path) {
  nlohmann::ordered_json json = {{"attack", spec.name}, {"target", spec.target}, {"seed", spec.seed}};
  if (spec.name == "AllToAll") json["target"] = nullptr;
  if (spec.source) json["source"] = *spec.source;
  if (spec.rate) json["rate"] = *spec.rate;
  if (!spec.dataset.empty()) json["dataset"] = spec.dataset;
  files::write(path, json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

REFINE_INLINE AttackSpec read_attack(const std::filesystem::path& path) {
  constexpr std::uintmax_t max_bytes = std::uintmax_t{1} << 20;
  const auto json = detail::parse_untrusted_json(files::read(path, max_bytes));
  const auto refuse = [&](const char* key, const nlohmann::json& value, const std::string& expected) {
    throw Error("cannot read {}: {} must be {}, got {}; write it with refine attack", path.string(), key,
                expected, value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  };
  const auto integer = [&]<std::integral Number>(const char* key, Number& field) {
    const auto& value = json.at(key);
    if (detail::read_integer(value, field) && field >= 0) return;
    refuse(key, value, fmt::format("a whole number from 0 to {}", std::numeric_limits<Number>::max()));
  };
  try {
    AttackSpec spec{.name = json.at("attack")};
    integer("seed", spec.seed);
    if (!json.at("target").is_null()) integer("target", spec.target);
    if (json.contains("source")) integer("source", spec.source.emplace());
    if (json.contains("rate")) {
      if (!json.at("rate").is_number()) refuse("rate", json.at("rate"), "a number");
      spec.rate = json.at("rate").get<double>();
    }
    if (json.contains("dataset")) spec.dataset = json.at("dataset").get<std::string>();
    return spec;
  } catch (const nlohmann::json::exception&) {
    throw Error("cannot read {}: attack, target or seed is missing; write it with refine attack",
                path.string());
  }
}

}  // namespace refine
