#pragma once

#include <fmt/core.h>
#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/attack_metrics.hpp>

namespace refine::report::detail {

/// A value in a metrics file, with its path, such as "before.asr.hits", for error messages.
class MetricsNode {
 public:
  /// \param file  for messages; must outlive the node
  /// \param value  must outlive the node
  /// \param path  of the value in the file; empty for the whole file
  MetricsNode(const std::filesystem::path& file, const nlohmann::json& value, std::string path = {})
      : file_(file), value_(value), path_(std::move(path)) {}

  /// Throws an Error with the file, the path and the formatted problem.
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> problem, Args&&... args) const {
    throw Error("cannot read {}: {}{}{}; expected a metrics.json that write_report wrote", file_.string(),
                path_, path_.empty() ? "" : ": ", fmt::format(problem, std::forward<Args>(args)...));
  }

  /// True if the value is null.
  bool is_null() const;

  /// True if the value is an object with this key.
  bool has(const char* key) const;

  /// True if the value is an object with this key, and what the key holds is not null.
  bool has_value(const char* key) const;

  /// Returns the member of an object.
  ///
  /// \throws Error if it is missing
  MetricsNode operator[](const char* key) const;

  /// Returns the number of elements.
  ///
  /// \throws Error if the value is not an array
  std::size_t size() const;

  /// Returns the element of an array.
  ///
  /// \throws Error if it is missing
  MetricsNode operator[](std::size_t i) const;

  /// Returns a string.
  ///
  /// \throws Error if the value is not a string
  std::string text() const;

  /// Returns a boolean.
  ///
  /// \throws Error if the value is not a boolean
  bool boolean() const;

  /// Returns a number, NaN for null.
  ///
  /// \throws Error if the value is neither
  double number() const;

  /// Returns an integer.
  ///
  /// \throws Error if the value is not an integer in [low, high]
  std::int64_t integer(std::int64_t low, std::int64_t high) const;

  /// Returns a number of images. The default maximum is small enough for sums of counts.
  ///
  /// \throws Error if the value is not an integer in [0, max]
  std::int64_t count(std::int64_t max = std::int64_t{1} << 32) const { return integer(0, max); }

  /// Checks that a stored metric equals the one computed from its counts, up to the rounding of a
  /// printed double.
  ///
  /// \throws Error if it does not
  void check_equals(double computed) const;

 private:
  const std::filesystem::path& file_;
  const nlohmann::json& value_;
  std::string path_;
};

/// Reads a share from its counts.
///
/// \throws Error if the stored value contradicts them
metrics::Proportion read_proportion(const MetricsNode& node);

/// Reads one lift for each class, in their order.
///
/// \param node  an array
/// \param classes  its length
/// \param short_form  true for the form of schema 2
/// \throws Error if a lift contradicts its counts
std::vector<metrics::Lift> read_lifts(const MetricsNode& node, int classes, bool short_form);

/// Reads the metrics of one classifier from its confusion matrices.
///
/// \param node  `before` or `after`
/// \param classes  number of classes
/// \param target  of the attack, if any
/// \param short_form  true for matrices and lifts in the form of schema 2
/// \throws Error if a stored metric contradicts the counts
metrics::AttackMetrics read_figures(const MetricsNode& node, int classes, const metrics::Target& target,
                                    bool short_form);

}  // namespace refine::report::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/json.ipp>
#endif
