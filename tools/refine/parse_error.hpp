#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace refine::cli {

/// Describes why a command line, or the file of --config, cannot be parsed, in one line, with what to do. An unknown
/// option is named before one that is missing, because it is likely a misspelling of it.
/// \param app the program, after the attempt to parse
std::string describe(const CLI::App& app, const CLI::ParseError& error);

}  // namespace refine::cli
