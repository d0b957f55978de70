#pragma once

#include <refine/export/weights.hpp>

#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/version.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <string_view>

#include <refine/core/config.hpp>
#include <refine/core/detail/untrusted_json.hpp>
#include <refine/core/error.hpp>
#include <refine/core/sha256.hpp>
#include <refine/remaps/remap.hpp>
#include <refine/training/recipe_json.hpp>

namespace refine::detail {

REFINE_INLINE std::string constants_json(const std::map<std::string, at::Tensor>& constants) {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [name, constant] : constants) {
    const at::Tensor flat = constant.to(at::kDouble).contiguous();
    const auto* begin = flat.const_data_ptr<double>();
    json[name] = std::vector<double>(begin, begin + flat.numel());
  }
  return json.dump();
}

/// Identifies the tensors and constants of a module.
inline std::string fingerprint_of_tensors(const torch::nn::Module& module,
                                          const std::map<std::string, at::Tensor>& constants) {
  Sha256 hash;
  // The length before each text keeps two victims from giving the same sequence of bytes.
  const auto add = [&](std::string_view text) { hash.add(fmt::format("{}:", text.size())).add(text); };
  for (const auto& [name, tensor] : nn::state_dict(module)) {
    const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
    add(name);
    add(fmt::format("{} [{}]", c10::toString(host.scalar_type()), fmt::join(host.sizes(), ", ")));
    add({static_cast<const char*>(host.const_data_ptr()), host.nbytes()});
  }
  add(constants_json(constants));
  return "sha256:" + hash.hex();
}

/// Identifies what the tensors of a module do not show. The graph of a program is written in another way by other
/// versions, which are named in it.
inline std::string fingerprint_of_code(const torch::nn::Module& module) {
  const std::string code = nn::code_of(module);
  const bool is_program = code.find("graph(") != std::string::npos;
  return fmt::format(
      "{}:{}", is_program ? fmt::format("graph of refine {}, LibTorch {}", version, TORCH_VERSION) : "code",
      Sha256().add(code).hex());
}

REFINE_INLINE std::string fingerprint(const torch::nn::Module& module,
                                      const std::map<std::string, at::Tensor>& constants) {
  return fingerprint_of_tensors(module, constants) + ' ' + fingerprint_of_code(module);
}

REFINE_INLINE std::string legacy_fingerprint(const torch::nn::Module& module,
                                             const std::map<std::string, at::Tensor>& constants) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](std::string_view bytes) {
    for (char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  };
  for (const auto& [name, tensor] : nn::state_dict(module)) {
    const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
    add(name);
    add({static_cast<const char*>(host.const_data_ptr()), host.nbytes()});
  }
  add(constants_json(constants));
  return fmt::format("{:016x}", hash);
}

REFINE_INLINE bool is_fingerprint_of(const std::string& stored, const torch::nn::Module& module,
                                     const std::map<std::string, at::Tensor>& constants) {
  if (stored.size() == 16 && stored.find_first_not_of("0123456789abcdef") == stored.npos)
    return stored == legacy_fingerprint(module, constants);
  const std::size_t end = std::min(stored.find(' '), stored.size());
  if (stored.substr(0, end) != fingerprint_of_tensors(module, constants)) return false;
  if (end == stored.size()) return true;  // of an earlier version
  const std::string code = stored.substr(end + 1), expected = fingerprint_of_code(module);
  const auto kind = [](const std::string& text) { return text.substr(0, text.rfind(':')); };
  const bool are_of_other_versions =
      code.starts_with("graph of") && expected.starts_with("graph of") && kind(code) != kind(expected);
  return are_of_other_versions || code == expected;
}

REFINE_INLINE void add_metadata(const DefenseInfo& info, const std::string& victim, const Recipe& recipe,
                                std::map<std::string, std::string>& metadata) {
  metadata["refine"] = "defense";
  metadata["permutation"] = nlohmann::json(info.permutation).dump();
  metadata["pixel_domain"] = domain_name(info.domain);
  metadata["victim"] = victim;
  metadata["transform"] = info.transform;
  if (info.encoder) metadata["encoder"] = fingerprint(*info.encoder, {});
  metadata["recipe"] = nlohmann::json(recipe).dump();
  metadata["seed"] = std::to_string(recipe.seed);
}

inline const std::string& metadata_value(const std::map<std::string, std::string>& metadata,
                                         const std::string& key, const std::string& name) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) {
    throw Error("cannot load {}: its metadata lacks '{}'; give it a defense that refine saved", name, key);
  }
  return found->second;
}

REFINE_INLINE void check_encoder(const std::map<std::string, std::string>& metadata,
                                 const std::shared_ptr<torch::nn::Module>& encoder, const std::string& name) {
  const auto found = metadata.find("encoder");
  const std::string stored = found == metadata.end() ? std::string() : found->second;
  if (encoder ? !is_fingerprint_of(stored, *encoder, {}) : !stored.empty())
    throw Error("cannot load {}: it was trained behind another encoder; load it with its own encoder", name);
}

REFINE_INLINE std::vector<std::int64_t> read_permutation(const std::map<std::string, std::string>& metadata,
                                                         const DefenseInfo& pipeline,
                                                         const std::string& name) {
  const auto value = [&](const std::string& key) -> const std::string& {
    return metadata_value(metadata, key, name);
  };
  if (const auto kind = metadata.find("refine"); kind != metadata.end() && kind->second == "student") {
    throw Error(
        "cannot load {}: it holds a student, expected a transform; give it to load_saved_defense (refine export, refine "
        "bench), or to a baselines::Substitute",
        name);
  }
  if (value("pixel_domain") != domain_name(pipeline.domain)) {
    throw Error(
        "cannot load {}: its pixel domain differs from the pipeline's (got '{}', expected '{}'); "
        "give the pipeline the file's",
        name, value("pixel_domain"), domain_name(pipeline.domain));
  }
  if (value("transform") != pipeline.transform) {
    throw Error(
        "cannot load {}: its transform differs from the pipeline's (got {}, expected {}); "
        "give the pipeline the file's",
        name, value("transform"), pipeline.transform);
  }
  check_encoder(metadata, pipeline.encoder, name);
  const auto permutation = parse_untrusted_json(value("permutation"));
  const auto is_integer = [](const nlohmann::json& entry) { return entry.is_number_integer(); };
  if (!permutation.is_array() || !std::ranges::all_of(permutation, is_integer)) {
    throw Error(
        "cannot load {}: its permutation is not a list of whole numbers; the file is damaged, get it again",
        name);
  }
  auto order = permutation.get<std::vector<std::int64_t>>();
  if (order.size() != pipeline.permutation.size()) {
    throw Error(
        "cannot load {}: its permutation has the wrong number of classes (got {}, expected {}); "
        "load it with its own victim",
        name, order.size(), pipeline.permutation.size());
  }
  if (const Message why = remaps::not_a_bijection(order); !why.empty()) {
    throw Error("cannot load {}: its permutation is invalid ({}); the file is damaged, get it again", name,
                why.view());
  }
  return order;
}

REFINE_INLINE void check_victim(const std::map<std::string, std::string>& metadata,
                                const torch::nn::Module& module,
                                const std::map<std::string, at::Tensor>& constants, const std::string& name) {
  if (!is_fingerprint_of(metadata_value(metadata, "victim", name), module, constants)) {
    throw Error(
        "cannot load {}: it was trained in front of another victim, or of this one with another normalization, channel "
        "order or stem; load it with its own victim, and with the --mean, --std, --bgr and --stem that it was trained with",
        name);
  }
}

}  // namespace refine::detail
