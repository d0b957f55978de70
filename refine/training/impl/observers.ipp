#pragma once

#include <refine/training/observers.hpp>

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cstring>
#include <system_error>

#include <refine/core/config.hpp>

namespace refine {

REFINE_INLINE JsonLines::JsonLines(const std::filesystem::path& path) : path_(path) {
  std::error_code ignored;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
  file_.reset(std::fopen(path.c_str(), "ab"));
  if (!file_) fail();
}

REFINE_INLINE void JsonLines::on_epoch(const EpochInfo& info) {
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

REFINE_INLINE void JsonLines::fail() const {
  throw Error("cannot write {}: {}; choose a writable folder on a disk that is not full", path_.string(),
              std::strerror(errno));
}

}  // namespace refine
