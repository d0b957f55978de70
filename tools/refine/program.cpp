#include "tools/refine/program.hpp"

// The command line: refine attack | defend | evaluate | predict | bench | export | inspect | report.

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/distributed/c10d.hpp>
#include <refine/nn/device.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/stop_on_signal.hpp>

#include "tools/refine/config_file.hpp"
#include "tools/refine/options.hpp"
#include "tools/refine/parse_error.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

/// Prints the command that continues a run.
void print_resume_command(const Common& common) {
  std::cerr << (common.ranks.size() > 1 ? "go on, under the same launcher, with: " : "go on with: ")
            << text::printable(common.resume_command) << '\n';
}

/// Does so if the run has left a checkpoint.
void print_resume_command_after_failure(const Common& common) {
  if (common.ranks.rank() == 0 && has_checkpoint(common.checkpoints)) print_resume_command(common);
}

/// Returns what could not be allocated, " (63 MB)", or LibTorch's text; "" if neither is known.
std::string missing_memory(const std::string& why, bool on_device) {
  if (on_device) return fmt::format(" ({})", why);
  constexpr std::string_view before = "you tried to allocate ";
  const std::size_t found = why.find(before);
  if (found == std::string_view::npos) return "";
  const double bytes = std::strtod(why.c_str() + found + before.size(), nullptr);
  return fmt::format(" ({:.0f} MB)", std::ceil(bytes / 1e6));
}

/// \throws Error if standard output has lost a part of the results
void flush_results() {
  std::cout.flush();
  if (!std::cout) throw Error("cannot write the results: standard output is full or closed; redirect it");
}

int run(int argc, char** argv, Common& common) {
  // Bazel runs programs in another folder, and tells where the user is.
  if (const char* folder = std::getenv("BUILD_WORKING_DIRECTORY")) fs::current_path(folder);

  CLI::App app{
      "REFINE (Chen et al., ICLR 2025): defends an image classifier that may carry a backdoor, with clean images and no "
      "labels.",
      "refine"};
  app.footer(
      "Results go to standard output, progress to standard error. Exit status: 0 done; 1 done, with something to look "
      "at; 2 refused, with one line that gives the reason; 130 or 143 stopped by SIGINT or SIGTERM.");
  app.set_version_flag("--version", std::string(version));
  common.resume_command = resume_command(argc, argv);
  std::string device = "auto", gpu_id, save_config;
  int threads = 0;
  app.config_formatter(config_file());
  app.require_subcommand(1);
  app.fallthrough();
  app.set_config("--config", "", "read options from a TOML file, as --save_config writes it")
      ->check(CLI::ExistingFile);
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_option("--save_config", save_config, "write this command's options to a TOML file, and continue")
      ->configurable(false);
  app.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--gpu_id", gpu_id, "the same as --device cuda:N");
  app.add_option("--threads", threads, "of the host; 0: OMP_NUM_THREADS, else all cores")
      ->capture_default_str();
  app.add_flag("--json", common.json, "print results as JSON");
  for (const auto add : {add_defend, add_predict, add_evaluate, add_bench, add_inspect, add_export,
                         add_report, add_attack, add_completion}) {
    add(app, common);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help and --version
      app.exit(error, std::cout, std::cerr);
      flush_results();
      return done;
    }
    throw Error("{}", describe(app, error));
  }
  common.save_config = save_config;
  if (const auto* config = app.get_config_ptr(); config->count() > 0)
    common.config = config->as<std::string>();
  common.write_config = [&, left = !save_config.empty()]() mutable {
    if (left) files::write(save_config, configuration(*app.get_subcommands().front()));
    left = false;
  };
  if (!gpu_id.empty() && device != "auto" && device != "cuda" && device != "cuda:" + gpu_id) {
    throw Error("--gpu_id {0}: the same as --device cuda:{0} (got --device {1}); leave one of the two out",
                gpu_id, device);
  }
  use_device(gpu_id.empty() ? device : "cuda:" + gpu_id);
  use_threads(threads);
  const std::string command = app.get_subcommands().front()->get_name();
  if (const auto size = distributed::C10d::size_in_environment(); size > 1 && command != "defend") {
    throw Error(
        "refine {}: runs as one process (got WORLD_SIZE={}, expected 1); only refine defend divides its work among "
        "several: start it without torchrun, or unset WORLD_SIZE",
        command, size);
  }
  common.ranks = distributed::C10d::from_environment_or_single();
  if (common.ranks.size() > 1) {
    if (default_device().is_cuda() && gpu_id.empty() && device == "auto")
      use_device(fmt::format("cuda:{}", common.ranks.local_rank()));
    if (common.ranks.rank() > 0) {
      set_quiet();
      common.write_config = [] {};
    }
  }
  int status = done;
  try {
    status = common.chosen();
  } catch (const Stopped& stopped) {
    if (common.ranks.rank() > 0) return StopOnSignal::exit_status();
    std::cerr << "stopped: " << text::printable(stopped.what()) << '\n';
    if (!stopped.checkpoint().empty()) print_resume_command(common);
    return StopOnSignal::exit_status();
  }
  common.write_config();  // for commands that do not call `begin`
  flush_results();
  return status;
}

}  // namespace

int run_program(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit then shows as a failed write, as a full disk does
  keep_freed_memory();
  Common common;
  try {
    return run(argc, argv, common);
  } catch (const Error& error) {
    std::cerr << "error: " << text::printable(error.what()) << '\n';
    if (common.is_trained) print_resume_command_after_failure(common);
    return Error::exit_status;
  } catch (const std::filesystem::filesystem_error& error) {
    std::cerr << "error: cannot use " << text::printable(error.path1().string()) << ": "
              << error.code().message() << "; check the path and its permissions\n";
    if (common.is_trained) print_resume_command_after_failure(common);
    return Error::exit_status;
  } catch (const std::exception& error) {
    const std::string why = nn::describe_error(error);
    if (nn::is_out_of_memory(error)) {
      const bool on_device = dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr;
      std::cerr
          << "error: not enough memory on the " << (on_device ? "device" : "host")
          << missing_memory(why, on_device)
          << "; use fewer or smaller images, for example --limit, or --store to keep them on the disk\n";
      print_resume_command_after_failure(common);
    } else {
      std::cerr << "error: " << (dynamic_cast<const c10::Error*>(&error) ? "LibTorch failed: " : "") << why
                << '\n';
      if (common.is_trained) print_resume_command_after_failure(common);
    }
  }
  return Error::exit_status;
}

}  // namespace refine::cli
