#pragma once

#include <refine/core/error.hpp>

#include <filesystem>
#include <string>

namespace refine {

/// Whether something lies at `path`. Not knowing (a folder that may not be entered) is no: who then opens it
/// hears why.
bool is_there(const std::filesystem::path& path);

/// The whole content of a file. \throws Error naming the file and the system's reason.
std::string file_bytes(const std::filesystem::path& path);

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/core/file_bytes_definitions.hpp>
#endif
