#pragma once

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>

namespace refine {

/// Whether something lies at `path`. Not knowing (a folder that may not be entered) is no: who then opens it
/// hears why.
bool file_exists(const std::filesystem::path& path);

/// The whole content of a file. \throws Error naming the file and the system's reason.
std::string read_file(const std::filesystem::path& path);

/// A file that carries its final name only when it is whole: it grows beside it under a partial name, and
/// `commit` renames it in one step, over an older file of that name. Not committed, it leaves nothing behind.
/// Every member throws `Error` (path, reason, what to do) when the disk is full, a folder is in the way, a
/// permission lacks. A symbolic link is written through: what it points at is replaced. A file that is
/// replaced hands its permissions on, and its owner and group where this process may set them.
class AtomicFile {
 public:
  /// Creates the parent folders and the partial file.
  explicit AtomicFile(std::filesystem::path final_path);

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  ~AtomicFile() { discard(); }

  /// The name the file will have.
  const std::filesystem::path& path() const { return final_path_; }

  /// \pre not committed
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }

  /// \pre not committed
  void write(const void* bytes, std::size_t count);

  /// Writes the file to the disk and gives it its final name; name and file survive a power cut. Once.
  void commit();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  static std::filesystem::path followed(std::filesystem::path path);

  void create_folders(const std::filesystem::path& folder);

  void open_partial(const std::filesystem::path& folder);

  void discard() noexcept;

  static const char* advice(int reason);

  // The partial file goes at once, and not only with the object: on a full disk its space is wanted.
  [[noreturn]] void fail(int reason);

  std::filesystem::path final_path_;
  std::filesystem::path partial_path_;
  std::vector<std::filesystem::path> changed_folders_;  ///< those that get a new name, the deepest first
  std::unique_ptr<std::FILE, Close> file_;
};

/// Writes a whole file, or leaves what was there before. \throws Error
void write_file(const std::filesystem::path& path, std::string_view bytes);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/core/impl/file.ipp>
#endif
