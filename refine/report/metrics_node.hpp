#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
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

  bool is_null() const;
  bool has(const char* key) const;

  /// Whether something was measured: the key is there, and is not null.
  bool tells(const char* key) const;

  MetricsNode operator[](const char* key) const;

  std::size_t size() const;

  MetricsNode operator[](std::size_t i) const;

  std::string text() const;

  bool yes() const;

  /// null is not a number.
  double number() const;

  std::int64_t whole(std::int64_t low, std::int64_t high) const;

  /// A number of images, small enough to be added up.
  std::int64_t count(std::int64_t most = std::int64_t{1} << 32) const { return whole(0, most); }

  /// That a figure is what its counts say, to what a printed double may lose.
  void require_figure(double counted) const;

 private:
  const std::filesystem::path& file_;
  const nlohmann::json& value_;
  std::string way_;
};

}  // namespace refine::report::detail

#if !defined(REFINE_COMPILED)
#include <refine/report/metrics_node_definitions.hpp>
#endif
