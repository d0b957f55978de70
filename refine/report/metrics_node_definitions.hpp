#pragma once

// What metrics_node.hpp declares.

#include <refine/report/metrics_node.hpp>

#include <fmt/core.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include <refine/core/compiled.hpp>

namespace refine::report::detail {

REFINE_DEFINITION bool MetricsNode::is_null() const {
  return value_.is_null();
}

REFINE_DEFINITION bool MetricsNode::has(const char* key) const {
  return value_.is_object() && value_.contains(key);
}

REFINE_DEFINITION bool MetricsNode::tells(const char* key) const {
  return has(key) && !value_[key].is_null();
}

REFINE_DEFINITION MetricsNode MetricsNode::operator[](const char* key) const {
  if (!has(key)) refuse("has no '{}'", key);
  return {file_, value_[key], way_.empty() ? key : fmt::format("{}.{}", way_, key)};
}

REFINE_DEFINITION std::size_t MetricsNode::size() const {
  if (!value_.is_array()) refuse("is no array");
  return value_.size();
}

REFINE_DEFINITION MetricsNode MetricsNode::operator[](std::size_t i) const {
  if (i >= size()) refuse("has {} entries", size());
  return {file_, value_[i], fmt::format("{}[{}]", way_, i)};
}

REFINE_DEFINITION std::string MetricsNode::text() const {
  if (!value_.is_string()) refuse("is no text");
  return value_.get<std::string>();
}

REFINE_DEFINITION bool MetricsNode::yes() const {
  if (!value_.is_boolean()) refuse("is neither true nor false");
  return value_.get<bool>();
}

REFINE_DEFINITION double MetricsNode::number() const {
  if (value_.is_null()) return std::numeric_limits<double>::quiet_NaN();
  if (!value_.is_number()) refuse("is no number");
  return value_.get<double>();
}

REFINE_DEFINITION std::int64_t MetricsNode::whole(std::int64_t low, std::int64_t high) const {
  if (!value_.is_number_integer()) refuse("is no whole number");
  const auto number = value_.get<std::int64_t>();
  if ((value_.is_number_unsigned() && value_.get<std::uint64_t>() > std::uint64_t(high)) || number < low ||
      number > high) {
    refuse("is outside {} to {}", low, high);
  }
  return number;
}

REFINE_DEFINITION void MetricsNode::require_figure(double counted) const {
  const double said = number();
  if (std::isnan(said) == std::isnan(counted) && !(std::abs(said - counted) > 1e-9)) return;
  refuse("is {}, the counts say {}", said, counted);
}

}  // namespace refine::report::detail
