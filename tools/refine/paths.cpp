#include "tools/refine/paths.hpp"

#include <fmt/core.h>

#include <cstddef>
#include <optional>
#include <set>
#include <system_error>

#include <refine/core/error.hpp>
#include <refine/data/image_files.hpp>

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

/// The path without links and dots, as far as it is there.
fs::path real(const fs::path& path) {
  std::error_code unknown;
  fs::path found = fs::weakly_canonical(fs::absolute(path, unknown), unknown);
  return (unknown ? fs::absolute(path, unknown) : found).lexically_normal();
}

/// True if both name one file: by links of both kinds, too.
bool is_same(const fs::path& a, const fs::path& b) {
  std::error_code unknown;
  if (fs::equivalent(a, b, unknown) && !unknown) return true;
  return real(a) == real(b);
}

/// The real folders in which images are looked for.
std::set<fs::path> folders_below(const fs::path& folder) {
  std::set<fs::path> folders;
  std::vector<fs::path> files;
  std::error_code unknown;
  if (fs::is_directory(folder, unknown)) data::detail::list_images(folder, folders, files);
  return folders;
}

/// True if a run over `folders` would read the file as an image, now or once it is there.
bool would_be_read(const fs::path& file, const std::set<fs::path>& folders) {
  if (!data::detail::has_image_extension(file)) return false;
  const auto is_hidden = [](const fs::path& path) { return path.filename().native().starts_with('.'); };
  for (fs::path at = real(file); !is_hidden(at) && at.has_relative_path();) {
    at = at.parent_path();
    if (folders.contains(at)) return true;
  }
  return false;
}

/// \throws Error: always
void refuse(const NamedPath& output, const std::string& why) {
  throw Error("cannot write {}: {}; choose another {}", output.path.string(), why, output.option);
}

}  // namespace

void begin(const Common& common, Paths paths) {
  paths.files.push_back({"--config", common.config});
  paths.outputs.push_back({"--save_config", common.save_config});
  for (auto* list : {&paths.files, &paths.images, &paths.outputs}) {
    std::erase_if(*list, [](const NamedPath& named) { return named.path.empty(); });
  }
  for (const NamedPath& output : paths.outputs) {
    for (const auto* list : {&paths.files, &paths.images}) {
      for (const NamedPath& input : *list) {
        if (!is_same(output.path, input.path)) continue;
        refuse(output, fmt::format("{} reads it, as {}", input.option, input.path.string()));
      }
    }
  }
  for (const NamedPath& input : paths.images) {
    const std::set<fs::path> folders = folders_below(input.path);
    for (const NamedPath& output : paths.outputs) {
      if (!would_be_read(output.path, folders)) continue;
      refuse(output, fmt::format("{} reads the images of {}, and would read it as one of them", input.option,
                                 input.path.string()));
    }
  }
  for (std::size_t i = 0; i < paths.outputs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (paths.outputs[i].option == paths.outputs[j].option) continue;
      if (!is_same(paths.outputs[i].path, paths.outputs[j].path)) continue;
      refuse(paths.outputs[i], fmt::format("{} writes it, too", paths.outputs[j].option));
    }
  }
  if (common.write_config) common.write_config();
}

}  // namespace refine::cli
