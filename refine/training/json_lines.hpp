#pragma once

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
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
  explicit JsonLines(const std::filesystem::path& path) : path_(path) {
    std::error_code ignored;
    if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
    file_.reset(std::fopen(path.c_str(), "ab"));
    if (!file_) fail();
  }

  void on_begin(const RunInfo& info) { run_ = info.name; }

  void on_epoch(const EpochInfo& info) {
    nlohmann::json line;
    line["run"] = run_;
    line["epoch"] = info.epoch;
    line["loss"] = info.loss;
    line["accuracy"] = info.accuracy;
    line["lr"] = info.lr;
    line["seconds"] = info.seconds;
    const std::string text = line.dump() + "\n";
    if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0)
      fail();
  }

 private:
  [[noreturn]] void fail() const {
    throw Error("cannot write {}: {}; choose a folder that can be written to, with room on its disk",
                path_.string(), std::strerror(errno));
  }

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::string run_;
};

}  // namespace refine
