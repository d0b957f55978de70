#pragma once

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include <refine/core/error.hpp>
#include <refine/training/observers.hpp>

namespace refine {

/// Appends a line of JSON at each epoch:
/// `{"run":"defense","epoch":1,"loss":…,"accuracy":…,"lr":…,"seconds":…}`. Each line is flushed, so that the
/// file can be followed while the run goes on.
class JsonLines {
 public:
  /// \throws Error when the file can't be opened for appending
  explicit JsonLines(const std::filesystem::path& path);

  void on_begin(const RunInfo& info) { run_ = info.name; }

  void on_epoch(const EpochInfo& info);

 private:
  [[noreturn]] void fail() const;

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::string run_;
};

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/training/json_lines_definitions.hpp>
#endif
