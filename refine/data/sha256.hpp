#pragma once

#include <fmt/format.h>
#include <openssl/evp.h>
#include <refine/core/error.hpp>

#include <array>
#include <cerrno>
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
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> digest(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (!digest || EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) != 1) fail("OpenSSL has no SHA-256");

  std::vector<unsigned char> block(1 << 16);
  while (const std::size_t got = std::fread(block.data(), 1, block.size(), file.get())) {
    EVP_DigestUpdate(digest.get(), block.data(), got);
  }
  if (std::ferror(file.get())) fail(std::generic_category().message(errno));

  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned size = 0;
  EVP_DigestFinal_ex(digest.get(), bytes.data(), &size);
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", bytes[i]);
  return hex;
}

}  // namespace refine::data
