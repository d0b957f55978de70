#pragma once

// What json_lines.hpp declares.

#include <refine/training/json_lines.hpp>

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>

#include <refine/core/compiled.hpp>

namespace refine {

REFINE_DEFINITION JsonLines::JsonLines(const std::filesystem::path& path) : path_(path) {
  std::error_code ignored;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
  file_.reset(std::fopen(path.c_str(), "ab"));
  if (!file_) fail();
}

REFINE_DEFINITION void JsonLines::on_epoch(const EpochInfo& info) {
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

REFINE_DEFINITION void JsonLines::fail() const {
  throw Error("cannot write {}: {}; choose a folder that can be written to, with room on its disk",
              path_.string(), std::strerror(errno));
}

}  // namespace refine
