#pragma once

#include <fmt/core.h>
#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/attack_metrics.hpp>

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

/// A metrics file's figures, from their counts; what the counts do not bear out is refused.
namespace refine::report::detail {

metrics::Proportion read_proportion(const MetricsNode& node);

/// One a class, in their order. \param short_form of schema 2
std::vector<metrics::Lift> read_lifts(const MetricsNode& node, int classes, bool short_form);

/// \param short_form of matrices and lifts: that of schema 2
metrics::AttackMetrics read_figures(const MetricsNode& node, int classes, std::optional<int> target,
                                    bool short_form);

}  // namespace refine::report::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/json.ipp>
#endif
