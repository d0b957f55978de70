#pragma once

#include <CLI/CLI.hpp>

#include <memory>
#include <string>

namespace refine::cli {

/// Returns the reader and writer of the files of --config and --save_config.
std::shared_ptr<CLI::Config> config_file();

/// Returns a command's options, with their defaults, in the form that `--config` reads.
std::string configuration(const CLI::App& command);

}  // namespace refine::cli
