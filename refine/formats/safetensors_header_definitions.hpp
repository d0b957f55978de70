#pragma once

// What safetensors_header.hpp declares.

#include <refine/formats/safetensors_header.hpp>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <refine/core/compiled.hpp>

namespace refine::formats::detail {

REFINE_DEFINITION void SafeTensorsHeader::read(std::string_view text) {
  if (!nlohmann::json::sax_parse(text, this)) fail_("its header is not a JSON object");
}

REFINE_DEFINITION bool SafeTensorsHeader::number_unsigned(std::uint64_t number) {
  if (!extents_) return unfit();
  extents_->push_back(number);
  return true;
}

REFINE_DEFINITION bool SafeTensorsHeader::string(std::string& text) {
  if (depth_ == 2 && in_metadata()) {
    metadata_[keys_[1]] = std::move(text);
  } else if (depth_ == 2 && keys_[1] == "dtype") {
    entry_.dtype = std::move(text);
  } else {
    return unfit();
  }
  return true;
}

REFINE_DEFINITION bool SafeTensorsHeader::key(std::string& name) {
  const std::size_t level = depth_ - 1;
  if (!names_[level].insert(name).second) fail_(fmt::format("its header has '{}' twice", name));
  keys_[level] = std::move(name);
  return true;
}

REFINE_DEFINITION bool SafeTensorsHeader::start_object(std::size_t) {
  if (depth_ == 1) entry_ = {};
  return (depth_ < 2 || unfit()) && deeper();
}

REFINE_DEFINITION bool SafeTensorsHeader::end_object() {
  --depth_;
  if (depth_ != 1 || in_metadata()) return true;
  const auto& said = names_[1];
  if (!said.contains("dtype") || !said.contains("shape") || entry_.data_offsets.size() != 2) malformed();
  tensors_.emplace(keys_[0], std::move(entry_));
  return true;
}

REFINE_DEFINITION bool SafeTensorsHeader::start_array(std::size_t) {
  if (depth_ == 2 && !in_metadata()) {
    if (keys_[1] == "shape") extents_ = &entry_.shape;
    if (keys_[1] == "data_offsets") extents_ = &entry_.data_offsets;
  }
  return (extents_ || unfit()) && deeper();
}

REFINE_DEFINITION bool SafeTensorsHeader::end_array() {
  extents_ = nullptr;
  --depth_;
  return true;
}

REFINE_DEFINITION bool SafeTensorsHeader::deeper() {
  if (depth_ == deepest) fail_("its header is nested too deep");
  names_[depth_++].clear();
  return true;
}

REFINE_DEFINITION bool SafeTensorsHeader::unfit() {
  if (depth_ == 0) return false;
  if (in_metadata()) {
    fail_(depth_ == 1 ? "its metadata is not an object"
                      : fmt::format("its metadata '{}' is not a string", keys_[1]));
  }
  if (depth_ == 1 || keys_[1] == "dtype" || keys_[1] == "shape" || keys_[1] == "data_offsets") malformed();
  return true;
}

REFINE_DEFINITION void SafeTensorsHeader::malformed() {
  fail_(fmt::format("the entry of tensor '{}' is malformed", keys_[0]));
}

}  // namespace refine::formats::detail
