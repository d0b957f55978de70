#pragma once

#include <refine/core/error.hpp>
#include <refine/core/sha256.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

namespace refine::data {

/// The SHA-256 of a file, as 64 lower-case hexadecimal digits. \throws Error when it cannot be read.
inline std::string sha256(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& why) {
    throw Error("cannot read {}: {}; check the path and its rights", path.string(), why);
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) fail(std::generic_category().message(errno));

  Sha256 digest;
  std::vector<unsigned char> block(1 << 16);
  while (const std::size_t got = std::fread(block.data(), 1, block.size(), file.get())) {
    digest.add(block.data(), got);
  }
  if (std::ferror(file.get())) fail(std::generic_category().message(errno));
  return digest.hex();
}

}  // namespace refine::data
