#pragma once

#include <refine/defend/detail/check_outputs.hpp>

#include <fmt/core.h>

#include <cstddef>
#include <set>
#include <system_error>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/data/image_files.hpp>

namespace refine::files {

/// Returns the path without links and dots, as far as it exists.
inline std::filesystem::path resolve(const std::filesystem::path& path) {
  std::error_code unknown;
  const auto absolute = std::filesystem::absolute(path, unknown);
  const auto found = std::filesystem::weakly_canonical(absolute, unknown);
  return (unknown ? std::filesystem::absolute(path, unknown) : found).lexically_normal();
}

/// True if both paths lead to one file, also through symbolic or hard links.
inline bool is_same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code unknown;
  if (std::filesystem::equivalent(a, b, unknown) && !unknown) return true;
  return resolve(a) == resolve(b);
}

/// True if a run over `folders` would read the file as an image, now or once it exists.
inline bool would_be_read(const std::filesystem::path& file, const std::set<std::filesystem::path>& folders) {
  if (!data::has_image_extension(file)) return false;
  const auto is_hidden = [](const std::filesystem::path& path) {
    return path.filename().native().starts_with('.');
  };
  for (std::filesystem::path part = resolve(file); !is_hidden(part) && part.has_relative_path();) {
    part = part.parent_path();
    if (folders.contains(part)) return true;
  }
  return false;
}

[[noreturn]] inline void refuse_output(const NamedPath& output, const std::string& why) {
  throw Error("cannot write {}: {}; choose another {}", output.path.string(), why, output.option);
}

REFINE_INLINE void check_outputs(Paths paths) {
  for (auto* list : {&paths.files, &paths.images, &paths.outputs}) {
    std::erase_if(*list, [](const NamedPath& named) { return named.path.empty(); });
  }
  for (const NamedPath& output : paths.outputs) {
    for (const auto* list : {&paths.files, &paths.images}) {
      for (const NamedPath& input : *list) {
        if (!is_same_file(output.path, input.path)) continue;
        refuse_output(output, fmt::format("{} reads it, as {}", input.option, input.path.string()));
      }
    }
  }
  for (const NamedPath& input : paths.images) {
    const std::set<std::filesystem::path> folders = data::searched_folders(input.path);
    for (const NamedPath& output : paths.outputs) {
      if (!would_be_read(output.path, folders)) continue;
      refuse_output(output, fmt::format("{} reads the images of {}, and would read it as one of them",
                                        input.option, input.path.string()));
    }
  }
  for (std::size_t i = 0; i < paths.outputs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (paths.outputs[i].option == paths.outputs[j].option) continue;
      if (!is_same_file(paths.outputs[i].path, paths.outputs[j].path)) continue;
      refuse_output(paths.outputs[i], fmt::format("{} writes it, too", paths.outputs[j].option));
    }
  }
}

}  // namespace refine::files
