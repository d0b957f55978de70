#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include <fmt/core.h>

#include <refine/core/error.hpp>

namespace refine::report::detail {

/// A place in a metrics file: its value, and the way there, "before.asr.hits", for who must mend it.
class MetricsNode {
 public:
  MetricsNode(const std::filesystem::path& file, const nlohmann::json& value, std::string way = {})
      : file_(file), value_(value), way_(std::move(way)) {}

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> why, Args&&... args) const {
    throw Error("cannot read {}: {} {}; give a metrics.json as write_report left it", file_.string(),
                way_.empty() ? "it" : "its " + way_, fmt::format(why, std::forward<Args>(args)...));
  }

  bool is_null() const { return value_.is_null(); }
  bool has(const char* key) const { return value_.is_object() && value_.contains(key); }

  /// Whether something was measured: the key is there, and is not null.
  bool tells(const char* key) const { return has(key) && !value_[key].is_null(); }

  MetricsNode operator[](const char* key) const {
    if (!has(key)) refuse("has no '{}'", key);
    return {file_, value_[key], way_.empty() ? key : fmt::format("{}.{}", way_, key)};
  }

  std::size_t size() const {
    if (!value_.is_array()) refuse("is no array");
    return value_.size();
  }

  MetricsNode operator[](std::size_t i) const {
    if (i >= size()) refuse("has {} entries", size());
    return {file_, value_[i], fmt::format("{}[{}]", way_, i)};
  }

  std::string text() const {
    if (!value_.is_string()) refuse("is no text");
    return value_.get<std::string>();
  }

  bool yes() const {
    if (!value_.is_boolean()) refuse("is neither true nor false");
    return value_.get<bool>();
  }

  /// null is not a number.
  double number() const {
    if (value_.is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (!value_.is_number()) refuse("is no number");
    return value_.get<double>();
  }

  std::int64_t whole(std::int64_t low, std::int64_t high) const {
    if (!value_.is_number_integer()) refuse("is no whole number");
    const auto number = value_.get<std::int64_t>();
    if ((value_.is_number_unsigned() && value_.get<std::uint64_t>() > std::uint64_t(high)) || number < low ||
        number > high) {
      refuse("is outside {} to {}", low, high);
    }
    return number;
  }

  /// A number of images, small enough to be added up.
  std::int64_t count(std::int64_t most = std::int64_t{1} << 32) const { return whole(0, most); }

  /// That a figure is what its counts say, to what a printed double may lose.
  void require_figure(double counted) const {
    const double said = number();
    if (std::isnan(said) == std::isnan(counted) && !(std::abs(said - counted) > 1e-9)) return;
    refuse("is {}, the counts say {}", said, counted);
  }

 private:
  const std::filesystem::path& file_;
  const nlohmann::json& value_;
  std::string way_;
};

}  // namespace refine::report::detail
