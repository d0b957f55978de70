#pragma once

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>

namespace refine {

/// Computes the SHA-256 of bytes that arrive in parts, by OpenSSL.
///
/// No umbrella header includes this one: only programs that hash are linked with libcrypto.
class Sha256 {
 public:
  /// Starts a digest.
  /// \throws Error if OpenSSL was built without SHA-256
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    require(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }

  /// Appends `count` bytes.
  Sha256& add(const void* bytes, std::size_t count) {
    require(EVP_DigestUpdate(context_.get(), bytes, count) == 1);
    return *this;
  }

  /// Appends the bytes of a text.
  Sha256& add(std::string_view bytes) { return add(bytes.data(), bytes.size()); }

  /// Returns the digest as 64 lower-case hexadecimal digits.
  /// \pre `hex` has not been called
  std::string hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned size = 0;
    require(EVP_DigestFinal_ex(context_.get(), bytes.data(), &size) == 1);
    std::string digits;
    for (unsigned i = 0; i < size; ++i) digits += fmt::format("{:02x}", bytes[i]);
    return digits;
  }

 private:
  static void require(bool done) {
    if (!done)
      throw Error("cannot compute a SHA-256: OpenSSL does not provide it; install an OpenSSL with SHA-256");
  }

  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

}  // namespace refine

namespace refine::files {

/// Returns the SHA-256 of a file, as 64 lower-case hexadecimal digits.
/// \throws Error if the file cannot be read
inline std::string sha256(const std::filesystem::path& path) {
  std::uint64_t size = 0;
  const detail::Stream file = detail::open_regular_stream(path, size);
  Sha256 digest;
  std::vector<unsigned char> block(1 << 16);
  while (const std::size_t got = std::fread(block.data(), 1, block.size(), file.get())) {
    digest.add(block.data(), got);
  }
  if (std::ferror(file.get())) detail::fail_to_read(path, errno);
  return digest.hex();
}

}  // namespace refine::files
