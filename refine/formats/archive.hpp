#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include <refine/core/error.hpp>

namespace refine::formats {

/// What an archive may ask for; each is checked before memory is taken.
struct ArchiveLimits {
  std::size_t entries = 100'000;
  std::uint64_t entry_bytes = std::uint64_t{16} << 30;
  std::uint64_t total_bytes = std::uint64_t{32} << 30;
  /// Of an entry's bytes to its compressed bytes, where it has more than 1 MiB. Weights do not compress, and
  /// TorchScript's source does some tenfold; DEFLATE's most is 1032.
  double ratio = 100;
};

/// An archive's content: path without the archive's top folder → bytes.
struct Archive {
  std::map<std::string, std::string> entries = {};
};

/// Whether a file that begins so is a ZIP archive, as torch.save and TorchScript write them.
inline bool is_archive(std::string_view first_bytes) {
  return first_bytes.starts_with("PK\3\4");
}

/// Reads a ZIP archive as torch.save and TorchScript write them: one top folder of any name, which is taken
/// off the paths; folders are skipped. What an entry is called and where it lies is read once, from the
/// archive's directory, and every local header must say the same: two programs can't read two things.
/// \throws Error naming the file and the entry, when the archive is cut, damaged or larger than `limits`;
/// when an entry is encrypted, a link, there twice, overlaps another or was packed otherwise than stored or
/// by DEFLATE; when it is an archive of another kind (`recognize_archive`); when a name is absolute, leaves its folder (`..`), has a backslash or control characters
Archive read_archive(const std::filesystem::path& path, const ArchiveLimits& limits = {});

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/archive.ipp>
#endif
