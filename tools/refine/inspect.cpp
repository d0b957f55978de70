// refine inspect: what a model file holds, without running anything of it.

#include <ATen/core/Tensor.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include <refine/core/one_line.hpp>
#include <refine/formats/torchscript.hpp>
#include <refine/formats/weights.hpp>

#include "tools/refine/command.hpp"
#include "tools/refine/paths.hpp"
#include "tools/refine/victim.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string file;
  bool code = false;
};

/// Source, a line at a time: control characters must not reach a terminal.
std::string printable_lines(const std::string& text) {
  std::istringstream all(text);
  std::string shown;
  for (std::string line; std::getline(all, line);) shown += printable(line) + '\n';
  return shown;
}

int inspect_program(const Options& options, const Common& common) {
  const auto listing = formats::inspect_torchscript(formats::read_archive(options.file));
  const auto extra = listing.extra.find("refine.json");
  const auto about = extra == listing.extra.end()
                         ? nlohmann::ordered_json()
                         : nlohmann::ordered_json::parse(extra->second, nullptr, /*allow_exceptions=*/false);
  const bool fine = listing.objections.empty();
  if (common.json) {
    nlohmann::ordered_json json = {{"file", options.file},
                                   {"kind", "TorchScript"},
                                   {"accepted", fine},
                                   {"objections", listing.objections},
                                   {"operators", listing.operators},
                                   {"classes", listing.classes}};
    if (about.is_object()) json["refine"] = about;
    if (options.code) json["code"] = listing.code;
    print(json);
    return fine ? done : look;
  }
  std::cout << fmt::format("{}: a TorchScript program, {} source files, {} operators\n", options.file,
                           listing.code.size(), listing.operators.size());
  for (const auto& name : listing.operators) std::cout << "  " << printable(name) << '\n';
  if (about.is_object()) std::cout << "refine.json\n" << printable_lines(about.dump(2));
  if (options.code) {
    for (const auto& [path, code] : listing.code) {
      std::cout << "\n--- " << printable(path) << '\n' << printable_lines(code);
    }
  }
  for (const auto& objection : listing.objections) std::cout << "objection: " << printable(objection) << '\n';
  std::cout << (fine ? "nothing in it but tensor arithmetic\n"
                     : "refused: refine does not run it unless --trust says so\n")
            << std::flush;
  return fine ? done : look;
}

int inspect_weights(const Options& options, const Common& common) {
  const auto weights = formats::read_weights(options.file);
  std::int64_t numbers = 0;
  for (const auto& [name, tensor] : weights.tensors) numbers += tensor.numel();
  if (common.json) {
    nlohmann::ordered_json tensors = nlohmann::ordered_json::object();
    for (const auto& [name, tensor] : weights.tensors) {
      tensors[name] = {{"dtype", c10::toString(tensor.scalar_type())}, {"shape", tensor.sizes().vec()}};
    }
    print({{"file", options.file},
           {"kind", "weights"},
           {"numbers", numbers},
           {"metadata", weights.metadata},
           {"tensors", tensors}});
    return done;
  }
  std::cout << fmt::format("{}: weights, {} tensors, {} numbers\n", options.file, weights.tensors.size(),
                           numbers);
  for (const auto& [name, tensor] : weights.tensors) {
    std::cout << fmt::format(
        "  {}  {} {}\n", printable(name), c10::toString(tensor.scalar_type()),
        tensor.dim() == 0 ? std::string("scalar") : fmt::format("{}", fmt::join(tensor.sizes(), "×")));
  }
  for (const auto& [key, value] : weights.metadata) {
    std::cout << printable(key) << ": " << printable_lines(value);
  }
  std::cout << std::flush;
  return done;
}

}  // namespace

void add_inspect(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("inspect", "what a model file holds, without running anything of it");
  const auto options = std::make_shared<Options>();
  command->add_option("file", options->file, "a TorchScript file, safetensors, or a file of torch.save")
      ->required();
  command->add_flag("--code", options->code, "print a program's source too");
  command->footer("Exit status 1: a program that refine would refuse to run.");
  command->callback([&common, options] {
    common.chosen = [&common, options] {
      begin(common, {.files = {{"inspect", options->file}}});
      return is_program(options->file) ? inspect_program(*options, common)
                                       : inspect_weights(*options, common);
    };
  });
}

}  // namespace refine::cli
