#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include <refine/core/error.hpp>

namespace refine::detail {

/// Creates a folder and its missing parents, and syncs each folder that gets a new entry.
/// \return 0, or the `errno` of what failed
int create_folders(const std::filesystem::path& folder);

/// Returns what to do if a file cannot be written for this reason, a number of `errno`.
const char* writing_advice(int reason);

/// Throws the Error for a file that cannot be read.
/// \param reason a number of `errno`
[[noreturn]] void fail_to_read(const std::filesystem::path& path, int reason);

/// Opens a regular file for reading. Does not wait, as opening a pipe does until another process writes to it.
/// \param size receives the number of bytes
/// \return a descriptor, which the caller closes
/// \throws Error if the path is a folder, a device or a pipe, or cannot be opened
int open_regular_file(const std::filesystem::path& path, std::uint64_t& size);

/// A C stream that is closed with its owner.
using Stream = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

/// Opens a stream as `open_regular_file` opens a descriptor.
Stream open_regular_stream(const std::filesystem::path& path, std::uint64_t& size);

/// Returns the first bytes of a regular file, at most `count`; empty if it cannot be read.
/// \param size receives the number of bytes of the file
std::string read_beginning(const std::filesystem::path& path, std::size_t count, std::uint64_t& size);

/// As above, without the size.
std::string read_beginning(const std::filesystem::path& path, std::size_t count);

}  // namespace refine::detail

namespace refine {

/// A file that appears under its final name only when it is complete.
///
/// It is written beside its final name, without a name (`O_TMPFILE`) or, where the system does not allow that, under
/// a temporary one, which a killed process leaves behind. `commit` renames it in one step, replacing an older file of
/// that name. Without `commit` nothing is left behind. If the path is a symbolic link, its target is replaced. The
/// new file takes over the permissions of the file it replaces, and its owner and group where the process may set
/// them.
///
/// All members throw `Error` with the path, the reason and a hint if the disk is full, a permission
/// is missing, or a folder has the file's name.
class AtomicFile {
 public:
  /// Creates the parent folders and the temporary file.
  /// \param final_path the name that the file gets by `commit`
  explicit AtomicFile(std::filesystem::path final_path);

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  ~AtomicFile() { discard(); }

  /// True if a file has the name of a temporary file, which a process that was killed leaves behind.
  static bool is_partial(const std::filesystem::path& file);

  /// Returns the final name of the file.
  const std::filesystem::path& path() const { return final_path_; }

  /// Appends bytes.
  /// \pre `commit` has not been called
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }

  /// Appends `count` bytes.
  /// \pre `commit` has not been called
  void write(const void* bytes, std::size_t count);

  /// Syncs the file, renames it to its final name and syncs the folder: name and content survive a
  /// power cut.
  /// \pre `commit` has not been called
  void commit();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  static std::filesystem::path followed(std::filesystem::path path);

  void open_partial();

  void discard() noexcept;

  int open_named(unsigned mode);

  void name_partial();

  void copy_to_partial();

  std::filesystem::path folder() const;

  // Removes the temporary file at once, and not only with the object: on a full disk its space is
  // needed.
  [[noreturn]] void fail(int reason);

  std::filesystem::path final_path_;
  std::filesystem::path partial_path_;  ///< empty while the temporary file has no name
  std::unique_ptr<std::FILE, Close> file_;
};

/// Whole files.
namespace files {

/// True if `path` exists. Returns false if that cannot be determined; opening the file then reports
/// the reason.
bool exists(const std::filesystem::path& path);

/// Returns the extension of a file's name in lower case (ASCII), with its dot: ".png".
std::string lower_extension(const std::filesystem::path& file);

/// The largest file that is read into memory where no other limit is specified: 32 GiB, as of an archive.
inline constexpr std::uintmax_t max_file_bytes = std::uintmax_t{32} << 30;

/// Returns the content of a file.
/// \param max_bytes a longer file is refused, before memory is taken for it
/// \throws Error if the file cannot be read, with the path and the reason of the system, is a device or a pipe, or is
///   longer than that
std::string read(const std::filesystem::path& path, std::uintmax_t max_bytes = max_file_bytes);

/// Writes a whole file, or leaves an older one unchanged.
/// \throws Error as `AtomicFile`
void write(const std::filesystem::path& path, std::string_view bytes);

}  // namespace files

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/core/impl/file.ipp>
#endif
