#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include <refine/core/error.hpp>

namespace refine::formats {

/// What an archive may claim. Each limit is checked before memory is allocated.
struct ArchiveLimits {
  std::size_t entries = 100'000;                        ///< number of entries, folders included
  std::uint64_t entry_bytes = std::uint64_t{16} << 30;  ///< uncompressed bytes of one entry
  std::uint64_t total_bytes = std::uint64_t{32} << 30;  ///< uncompressed bytes of all entries
  /// Largest ratio of uncompressed to compressed bytes, for entries of more than 1 MiB, and of all
  /// entries to the file if they are more than 64 MiB. Weights hardly compress and TorchScript source
  /// compresses about tenfold; DEFLATE reaches at most 1032.
  double ratio = 50;
};

/// The content of an archive.
struct Archive {
  std::map<std::string, std::string> entries = {};  ///< path without the archive's top folder → bytes
};

/// Returns true if a file is a ZIP archive, as torch.save and TorchScript write them.
/// \param first_bytes at least the first four bytes of the file
inline bool is_archive(std::string_view first_bytes) {
  return first_bytes.starts_with("PK\3\4");
}

/// Reads a ZIP archive as torch.save, TorchScript and torch.export write them: all entries lie in one top folder
/// of any name, which is removed from the paths. Entries for folders are skipped.
///
/// A ZIP archive states the name, size and position of each entry twice: in the central directory
/// and in front of the data. The reader takes the directory and requires that both agree, so that
/// no two programs can read different content from one file.
///
/// \code{.cpp}
/// const auto archive = formats::read_archive("model.pt", {.total_bytes = 1 << 30});
/// const std::string& pickle = archive.entries.at("data.pkl");
/// \endcode
///
/// \param path the file
/// \param limits what the archive may claim
/// \return the content of every entry
/// \throws Error naming the file and the entry if the archive is truncated, damaged or larger than
///        `limits`
/// \throws Error if an entry is encrypted, a link or a duplicate (also one in another case, which PyTorch takes for
///         the same name), overlaps another entry, or uses a
///         compression method other than "stored" and DEFLATE
/// \throws Error if the name of an entry is absolute, leaves its folder (`..`), or contains a
///        backslash or control characters
/// \throws ForeignFileError if it is an archive of another kind (`recognize_archive`)
Archive read_archive(const std::filesystem::path& path, const ArchiveLimits& limits = {});

/// Reads an archive that is in memory, such as one in another archive.
/// \param bytes the whole archive
/// \param name a name, for messages
/// \param limits what the archive may claim
/// \return the content of every entry
/// \throws Error as `read_archive`
Archive read_nested_archive(std::string_view bytes, const std::filesystem::path& name,
                            const ArchiveLimits& limits = {});

namespace detail {

/// Returns the entries of an archive without their content, which is neither read nor verified.
/// \throws Error as `read_archive`, but for damaged content
Archive list_archive(const std::filesystem::path& path);

/// Calls a function with each file of a ZIP archive of any kind, of those that are neither encrypted nor in an
/// unusual compression.
/// \param max_bytes largest size of a file, and of all compressed ones together; others are left out
/// \param take receives the path and the content
/// \throws Error if the archive is damaged
void visit_archive(const std::filesystem::path& path, std::uint64_t max_bytes,
                   const std::function<void(std::string_view name, std::string_view bytes)>& take);

}  // namespace detail

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/archive.ipp>
#endif
