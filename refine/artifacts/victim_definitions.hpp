#pragma once

// What victim.hpp declares.

#include <refine/artifacts/victim.hpp>

#include <ATen/core/Tensor.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <refine/core/compiled.hpp>

namespace refine::artifacts::detail {

REFINE_DEFINITION std::string constants_text(const std::map<std::string, at::Tensor>& constants) {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [name, constant] : constants) {
    const at::Tensor flat = constant.to(at::kDouble).contiguous();
    const auto* begin = flat.const_data_ptr<double>();
    json[name] = std::vector<double>(begin, begin + flat.numel());
  }
  return json.dump();
}

}  // namespace refine::artifacts::detail
