#pragma once

// What file_bytes.hpp declares.

#include <refine/core/file_bytes.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include <refine/core/compiled.hpp>

namespace refine {

REFINE_DEFINITION bool is_there(const std::filesystem::path& path) {
  std::error_code unknown;
  return std::filesystem::exists(path, unknown);
}

REFINE_DEFINITION std::string file_bytes(const std::filesystem::path& path) {
  const auto fail = [&](int code) -> std::string {
    throw Error("cannot read {}: {}; check the path and its rights", path.string(),
                std::generic_category().message(code));
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) return fail(errno);
  std::setbuf(file.get(), nullptr);  // one read of all that is there, straight into its place

  std::error_code unknown;
  const auto expected = std::filesystem::file_size(path, unknown);
  if (unknown) return fail(unknown.value());
  std::string bytes(expected, '\0');
  const std::size_t got = std::fread(bytes.data(), 1, bytes.size(), file.get());
  if (std::ferror(file.get())) return fail(errno);
  bytes.resize(got);
  return bytes;
}

}  // namespace refine
