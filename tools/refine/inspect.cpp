// refine inspect: what model files hold, without running anything of them.

#include <ATen/core/Tensor.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/inspect.hpp>
#include <refine/formats/torchscript_check.hpp>

#include "tools/refine/command.hpp"
#include "tools/refine/paths.hpp"
#include "tools/refine/victim.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;
using formats::Objection;
using nlohmann::ordered_json;

struct Options {
  std::vector<std::string> files;
  std::string key, sarif;
  bool code = false;
};

/// A rule of the scan, as SARIF lists them.
struct Rule {
  const char* id;
  const char* level;
  const char* text;
};

constexpr std::array rules = {
    Rule{"harmful-program", "error", "A TorchScript program asks for more than arithmetic on tensors."},
    Rule{"unknown-operator", "warning", "A TorchScript program names an operator that refine does not know."},
    Rule{"library-operator", "warning", "A TorchScript program names an operator of another library."},
    Rule{"quantized-program", "warning", "A TorchScript program is quantised: no gradient passes it."},
    Rule{"unsupported-program", "warning", "A TorchScript program is in a form that refine does not read."},
    Rule{"pickle-runs-program", "error",
         "A pickle names a function that runs programs while Python loads it."},
    Rule{"unknown-class", "note", "A pickle names classes that are no tensors; refine never calls them."},
    Rule{"refused-file", "error",
         "A file cannot be read as a model: it is damaged, hostile or not supported."},
    Rule{"other-format", "note", "A file is a model of another format."},
};

std::size_t rule_of(Objection::Kind kind) {
  switch (kind) {
    case Objection::Kind::harmful:
      return 0;
    case Objection::Kind::unknown:
      return 1;
    case Objection::Kind::library:
      return 2;
    case Objection::Kind::quantized:
      return 3;
    case Objection::Kind::unsupported:
      return 4;
  }
  return 0;
}
constexpr std::size_t runs_program = 5, unknown_class = 6, refused_file = 7, other_format = 8;

struct Finding {
  std::size_t rule;
  std::string text;
};

/// What was found in one file.
struct Report {
  std::string file;
  std::string summary = {};  ///< one line
  std::string details = {};  ///< further lines
  std::vector<Finding> findings = {};
  ordered_json json = {};
  std::exception_ptr error = {};  ///< where it cannot be read

  bool is_fine() const {
    return std::ranges::all_of(
        findings, [](const Finding& f) { return std::string_view(rules[f.rule].level) == "note"; });
  }
};

/// Source, a line at a time: control characters must not reach a terminal.
std::string printable_lines(const std::string& text) {
  std::istringstream all(text);
  std::string shown;
  for (std::string line; std::getline(all, line);) shown += printable(line) + '\n';
  return shown;
}

void inspect_program(const Options& options, Report& report) {
  const auto listing = formats::inspect_torchscript(formats::read_archive(report.file));
  const auto extra = listing.extra.find("refine.json");
  const auto about = extra == listing.extra.end()
                         ? ordered_json()
                         : ordered_json::parse(extra->second, nullptr, /*allow_exceptions=*/false);
  std::vector<std::string> objections;
  for (const Objection& objection : listing.objections) {
    report.findings.push_back({rule_of(objection.kind), objection.text});
    objections.push_back(objection.text);
  }
  const bool fine = objections.empty();
  report.json = {{"file", report.file},      {"kind", "TorchScript"},          {"accepted", fine},
                 {"objections", objections}, {"operators", listing.operators}, {"classes", listing.classes}};
  if (about.is_object()) report.json["refine"] = about;
  if (options.code) report.json["code"] = listing.code;

  report.summary = fmt::format("a TorchScript program, {} source files, {} operators", listing.code.size(),
                               listing.operators.size());
  for (const auto& name : listing.operators) report.details += "  " + printable(name) + '\n';
  if (about.is_object()) report.details += "refine.json\n" + printable_lines(about.dump(2));
  if (options.code) {
    for (const auto& [path, code] : listing.code) {
      report.details += "\n--- " + printable(path) + '\n' + printable_lines(code);
    }
  }
  for (const auto& objection : objections) report.details += "objection: " + printable(objection) + '\n';
  report.details += fine ? "nothing in it but tensor arithmetic\n"
                         : "refused: " + formats::detail::script::advice(listing) + "\n";
}

void inspect_weights(const Options& options, Report& report) {
  const auto weights = formats::read_weights(report.file, options.key);
  std::int64_t numbers = 0;
  ordered_json tensors = ordered_json::object();
  for (const auto& [name, tensor] : weights.tensors) {
    numbers += tensor.numel();
    tensors[name] = {{"dtype", c10::toString(tensor.scalar_type())}, {"shape", tensor.sizes().vec()}};
    report.details += fmt::format(
        "  {}  {} {}\n", printable(name), c10::toString(tensor.scalar_type()),
        tensor.dim() == 0 ? std::string("scalar") : fmt::format("{}", fmt::join(tensor.sizes(), "×")));
  }
  report.json = {{"file", report.file}, {"kind", "weights"}, {"numbers", numbers}};
  if (!weights.key.empty()) report.json["key"] = weights.key;
  if (!weights.other_keys.empty()) report.json["other_keys"] = weights.other_keys;
  if (!weights.unknown_names.empty()) report.json["unknown_names"] = weights.unknown_names;
  report.json["metadata"] = weights.metadata;
  report.json["tensors"] = std::move(tensors);

  report.summary = fmt::format("weights{}, {} tensors, {} numbers",
                               weights.key.empty() ? "" : " at '" + printable(weights.key) + "'",
                               weights.tensors.size(), numbers);
  for (const auto& [key, value] : weights.metadata) {
    report.details += printable(key) + ": " + printable_lines(value);
  }
  if (!weights.other_keys.empty()) {
    report.details +=
        printable(fmt::format("other weights, which --key takes: {}", fmt::join(weights.other_keys, ", "))) +
        '\n';
  }
  if (!weights.unknown_names.empty()) {
    const std::string names = printable(fmt::format("{}", fmt::join(weights.unknown_names, ", ")));
    report.details += "also names, and refine never calls: " + names + '\n';
    report.findings.push_back({unknown_class, "names classes that are no tensors: " + names});
  }
}

Report inspect(const Options& options, const std::string& file) {
  Report report{.file = file};
  const auto refuse = [&](std::size_t rule, const char* why) {
    report.error = std::current_exception();
    report.findings.push_back({rule, why});
    report.summary = why;
    report.json = {{"file", file}, {"kind", "refused"}, {"rule", rules[rule].id}, {"error", why}};
  };
  try {
    if (is_program(file)) {
      inspect_program(options, report);
    } else {
      inspect_weights(options, report);
    }
  } catch (const formats::ProgramError& error) {
    refuse(runs_program, error.what());
  } catch (const formats::ForeignFileError& error) {
    refuse(other_format, error.what());
  } catch (const Error& error) {
    refuse(refused_file, error.what());
  }
  return report;
}

/// Whether a file of a folder is a model of some kind; of a file that the user names, nobody asks.
bool is_model(const fs::path& path) {
  std::string extension = path.extension().string();
  std::ranges::transform(extension, extension.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const std::string_view usual :
       {".pt",   ".pth",  ".ckpt",   ".tar",  ".pkl",   ".pickle", ".bin",    ".safetensors",
        ".pt2",  ".onnx", ".h5",     ".hdf5", ".keras", ".pb",     ".tflite", ".mlmodel",
        ".gguf", ".ptl",  ".joblib", ".dill", ".npz",   ".mar",    ".t7"}) {
    if (extension == usual) return true;
  }
  std::ifstream file(path, std::ios::binary);
  std::string first(2, '\0');
  if (!file.read(first.data(), 2)) return false;
  return first[0] == '\x80' && first[1] >= 2 && first[1] <= 5;  // a pickle, whatever it is called
}

/// The files that are meant, folders replaced by the models in them. \param passed_over counts the rest
std::vector<std::string> files_of(const Options& options, std::size_t& passed_over) {
  std::vector<std::string> files;
  for (const std::string& each : options.files) {
    std::error_code unknown;
    if (!fs::is_directory(each, unknown)) {
      files.push_back(each);
      continue;
    }
    std::vector<std::string> found;
    for (const auto& entry :
         fs::recursive_directory_iterator(each, fs::directory_options::skip_permission_denied)) {
      if (entry.is_symlink() || !entry.is_regular_file()) continue;
      if (is_model(entry.path())) {
        found.push_back(entry.path().string());
      } else {
        ++passed_over;
      }
    }
    std::ranges::sort(found);
    if (found.empty()) {
      throw Error("cannot inspect {}: the folder has no model file; name the file, or another folder", each);
    }
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

/// A path as a URI: what is not plain in one is escaped.
std::string uri_of(const std::string& path) {
  std::string uri = path.starts_with('/') ? "file://" : "";
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || std::string_view("/-_.~").find(c) != std::string_view::npos) {
      uri += c;
    } else {
      uri += fmt::format("%{:02X}", byte);
    }
  }
  return uri;
}

/// SARIF 2.1.0 (OASIS), as code scanning takes it.
ordered_json sarif_of(const std::vector<Report>& reports) {
  ordered_json listed = ordered_json::array(), results = ordered_json::array();
  for (const Rule& rule : rules) {
    listed.push_back({{"id", rule.id},
                      {"shortDescription", {{"text", rule.text}}},
                      {"defaultConfiguration", {{"level", rule.level}}}});
  }
  for (const Report& report : reports) {
    for (const Finding& finding : report.findings) {
      const ordered_json place = {
          {"physicalLocation", {{"artifactLocation", {{"uri", uri_of(report.file)}}}}}};
      results.push_back({{"ruleId", rules[finding.rule].id},
                         {"ruleIndex", finding.rule},
                         {"level", rules[finding.rule].level},
                         {"message", {{"text", printable(finding.text)}}},
                         {"locations", ordered_json::array({place})}});
    }
  }
  const ordered_json driver = {
      {"name", "refine inspect"}, {"version", std::string(version)}, {"rules", listed}};
  const ordered_json run = {{"tool", {{"driver", driver}}}, {"results", results}};
  return {{"$schema", "https://json.schemastore.org/sarif-2.1.0.json"},
          {"version", "2.1.0"},
          {"runs", ordered_json::array({run})}};
}

void print_text(const std::vector<Report>& reports, bool brief, std::size_t passed_over) {
  for (const Report& report : reports) {
    if (report.error) {
      std::cout << printable(report.summary) << '\n';
      continue;
    }
    std::cout << printable(report.file) << ": " << report.summary << '\n';
    if (!brief) {
      std::cout << report.details;
      continue;
    }
    for (const Finding& finding : report.findings) {
      std::cout << fmt::format("  {}: {}\n", rules[finding.rule].level, printable(finding.text));
    }
  }
  if (brief) {
    const auto bad = std::ranges::count_if(reports, [](const Report& report) { return !report.is_fine(); });
    std::cout << fmt::format("{} files inspected, {} refused", reports.size(), bad);
    if (passed_over > 0) std::cout << fmt::format("; {} other files passed over", passed_over);
    std::cout << '\n';
  }
  std::cout << std::flush;
}

int run(const Options& options, const Common& common) {
  std::size_t passed_over = 0;
  const std::vector<std::string> files = files_of(options, passed_over);
  Paths paths{.outputs = {{"--sarif", options.sarif}}};
  for (const std::string& file : files) paths.files.push_back({"inspect", file});
  begin(common, std::move(paths));
  std::vector<Report> reports;
  for (const std::string& file : files) reports.push_back(inspect(options, file));
  if (!options.sarif.empty()) {
    write_file(options.sarif,
               sarif_of(reports).dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n");
  }
  std::error_code unknown;
  const bool one = options.files.size() == 1 && !fs::is_directory(options.files.front(), unknown);
  if (one && reports.front().error) std::rethrow_exception(reports.front().error);
  if (common.json) {
    ordered_json all = ordered_json::array();
    for (Report& report : reports) all.push_back(std::move(report.json));
    print(one ? all.front() : ordered_json{{"files", all}, {"passed_over", passed_over}});
  } else {
    print_text(reports, !one, passed_over);
  }
  return std::ranges::all_of(reports, &Report::is_fine) ? done : look;
}

}  // namespace

void add_inspect(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("inspect", "what model files hold, without running anything of them");
  const auto options = std::make_shared<Options>();
  command
      ->add_option("files", options->files,
                   "TorchScript files, safetensors, files of torch.save, or folders with such files")
      ->required();
  command->add_option("--key", options->key,
                      "which weights of a checkpoint to list; left out: found by content");
  command->add_option("--sarif", options->sarif, "write the findings to this file, as SARIF 2.1.0");
  command->add_flag("--code", options->code, "print a program's source too");
  command->footer(
      "Exit status 1: a program that refine would refuse to run, or, of several files, one that it cannot read.");
  command->callback(
      [&common, options] { common.chosen = [&common, options] { return run(*options, common); }; });
}

}  // namespace refine::cli
