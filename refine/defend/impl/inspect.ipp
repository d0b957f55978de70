#pragma once

#include <refine/defend/inspect.hpp>

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/defend/detail/result_json.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/detail/objection.hpp>
#include <refine/formats/detail/pickle_machine.hpp>
#include <refine/formats/detail/zip_directory.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/inspect.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/formats/torchscript_check.hpp>

namespace refine::detail::inspection {

using nlohmann::ordered_json;

/// Returns the number of the rule for an objection.
inline std::size_t rule_of(formats::Objection::Kind kind) {
  switch (kind) {
    case formats::Objection::Kind::harmful:
      return 0;
    case formats::Objection::Kind::unknown:
      return 1;
    case formats::Objection::Kind::library:
      return 2;
    case formats::Objection::Kind::quantized:
      return 3;
    case formats::Objection::Kind::unsupported:
      return 4;
  }
  return 0;
}
/// Numbers of the other rules.
constexpr std::size_t runs_program = 5, unknown_class = 6, refused_file = 7, other_format = 8, no_weights = 9;

/// Makes each line safe to print.
inline std::string printable_lines(const std::string& text) {
  std::istringstream all(text);
  std::string shown;
  for (std::string line; std::getline(all, line);) shown += text::printable(line) + '\n';
  return shown;
}

/// Adds a finding for each objection. Returns their texts.
inline std::vector<std::string> add_findings(const std::vector<formats::Objection>& objections,
                                             Inspection& report) {
  std::vector<std::string> texts;
  for (const formats::Objection& objection : objections) {
    report.findings.push_back({rule_of(objection.kind), objection.text});
    texts.push_back(objection.text);
  }
  return texts;
}

/// Ends the details of a program with its objections and the conclusion.
/// \param advice what to do about the objections
inline void add_verdict(const std::vector<std::string>& objections, const std::string& advice,
                        Inspection& report) {
  for (const auto& objection : objections)
    report.details += "objection: " + text::printable(objection) + '\n';
  report.details +=
      objections.empty() ? "nothing in it but tensor arithmetic\n" : "refused: " + advice + "\n";
}

inline void inspect_program(const InspectOptions& options, Inspection& report) {
  const auto listing = formats::inspect_torchscript(formats::read_archive(report.file));
  const ordered_json about = json_under(listing.extra, "refine.json");
  const std::vector<std::string> objections = add_findings(listing.objections, report);
  const bool fine = objections.empty();
  report.json = {{"file", report.file},      {"kind", "TorchScript"},          {"accepted", fine},
                 {"objections", objections}, {"operators", listing.operators}, {"classes", listing.classes}};
  if (about.is_object()) report.json["refine"] = about;
  if (options.code) report.json["code"] = listing.code;

  report.summary = fmt::format("a TorchScript program, {} source files, {} operators", listing.code.size(),
                               listing.operators.size());
  for (const auto& name : listing.operators) report.details += "  " + text::printable(name) + '\n';
  if (about.is_object()) report.details += "refine.json\n" + printable_lines(about.dump(2));
  if (options.code) {
    for (const auto& [path, code] : listing.code) {
      report.details += "\n--- " + text::printable(path) + '\n' + printable_lines(code);
    }
  }
  add_verdict(objections, fine ? "" : formats::detail::script::advice(listing), report);
}

/// Lists a tensor that goes into a program or comes out of it.
/// \param what "input" or "output"
/// \param type the word for its type
/// \param sizes empty elements for sizes that are open
inline void list_value(const char* what, const std::string& name, std::string_view type, const auto& sizes,
                       Inspection& report) {
  std::string text;
  ordered_json json = ordered_json::array();
  for (const auto& size : sizes) {
    text += (text.empty() ? "" : "×") + (size ? std::to_string(*size) : "?");
    json.push_back(size ? ordered_json(*size) : ordered_json(nullptr));
  }
  report.json[what].push_back({{"name", name}, {"dtype", type}, {"shape", json}});
  report.details += text::printable(fmt::format("{} {}  {} {}", what, name, type, text)) + '\n';
}

/// Lists a program's operators and tensors, its calls if they are wanted, its refine.json and the conclusion.
/// \param program an `ExportedProgram` or an `OnnxModel`
/// \param call node → its call, in one line
/// \param about its refine.json; null if there is none
/// \param advice what to do about the objections
inline void list_program(const auto& program, const auto& call, const std::set<std::string>& operators,
                         const std::vector<std::string>& objections, const ordered_json& about,
                         const std::string& advice, const InspectOptions& options, Inspection& report) {
  for (const auto& name : operators) report.details += "  " + text::printable(name) + '\n';
  std::int64_t numbers = 0;
  ordered_json tensors = ordered_json::object();
  for (const auto& [name, tensor] : program.tensors) {
    numbers += tensor.count();
    const std::string_view type = formats::element_name(tensor.type);
    tensors[name] = {{"dtype", type}, {"shape", tensor.sizes}};
    report.details +=
        text::printable(fmt::format(
            "  {}  {} {}", name, type,
            tensor.sizes.empty() ? std::string("scalar") : fmt::format("{}", fmt::join(tensor.sizes, "×")))) +
        '\n';
  }
  report.json["numbers"] = numbers;
  report.json["tensors"] = std::move(tensors);
  if (options.code) {
    ordered_json code = ordered_json::array();
    for (const auto& node : program.nodes) {
      code.push_back(call(node));
      report.details += text::printable(call(node)) + '\n';
    }
    report.json["code"] = std::move(code);
  }
  if (about.is_object()) report.details += "refine.json\n" + printable_lines(about.dump(2));
  add_verdict(objections, advice, report);
}

inline void inspect_exported(formats::Archive archive, const InspectOptions& options, Inspection& report) {
  const auto listing = formats::inspect_exported_program(std::move(archive), report.file);
  const formats::ExportedProgram& program = listing.program;
  const std::vector<std::string> objections = add_findings(listing.objections, report);
  const bool fine = objections.empty();
  report.json = {{"file", report.file}, {"kind", "torch.export"},   {"torch_version", program.torch_version},
                 {"accepted", fine},    {"objections", objections}, {"operators", listing.operators}};
  const ordered_json about = json_under(program.extra, "refine.json");
  if (about.is_object()) report.json["refine"] = about;
  report.summary = text::printable(fmt::format(
      "a program of torch.export (PyTorch {}, schema {}.{}), {} calls of {} operators", program.torch_version,
      program.schema.first, program.schema.second, program.nodes.size(), listing.operators.size()));
  const auto list_shape = [&](const char* what, const std::string& name, const std::string& value) {
    if (const auto shape = program.shapes.find(value); shape != program.shapes.end())
      list_value(what, name, formats::element_name(shape->second.type), shape->second.sizes, report);
  };
  for (const formats::GraphInput& input : program.inputs) {
    if (input.kind == formats::GraphInput::Kind::images) list_shape("input", input.name, input.name);
  }
  for (const formats::GraphOutput& output : program.outputs) list_shape("output", output.name, output.value);
  const auto call = [](const formats::GraphNode& node) { return node.name + " = " + node.target; };
  list_program(program, call, listing.operators, objections, about,
               fine ? "" : formats::detail::exported::advice(listing), options, report);
}

inline void inspect_onnx(const InspectOptions& options, Inspection& report) {
  const auto listing = formats::inspect_onnx(formats::detail::onnx::read_file(report.file), report.file);
  const formats::OnnxModel& model = listing.model;
  const std::vector<std::string> objections = add_findings(listing.objections, report);
  const bool fine = objections.empty();
  report.json = {{"file", report.file},           {"kind", "ONNX"},   {"opset", model.opset},
                 {"producer", model.producer},    {"accepted", fine}, {"objections", objections},
                 {"operators", listing.operators}};
  const ordered_json about = json_under(model.metadata, "refine.json");
  if (about.is_object()) report.json["refine"] = about;
  report.summary =
      text::printable(fmt::format("an ONNX model (opset {}, written by '{}'), {} calls of {} operators",
                                  model.opset, model.producer, model.nodes.size(), listing.operators.size()));
  const auto list_values = [&](const char* what, const std::vector<formats::OnnxValue>& values) {
    for (const formats::OnnxValue& value : values)
      list_value(what, value.name, value.type ? formats::element_name(*value.type) : "unknown", value.sizes,
                 report);
  };
  list_values("input", model.inputs);
  list_values("output", model.outputs);
  const auto call = [](const formats::OnnxNode& node) {
    return fmt::format("{} = {}({})", fmt::join(node.outputs, ", "), node.op, fmt::join(node.inputs, ", "));
  };
  list_program(model, call, listing.operators, objections, about,
               fine ? "" : formats::detail::onnx::advice(listing), options, report);
}

inline void inspect_weights(const InspectOptions& options, Inspection& report) {
  const auto weights = formats::read_weights(report.file, options.key);
  std::int64_t numbers = 0;
  ordered_json tensors = ordered_json::object();
  for (const auto& [name, tensor] : weights.tensors) {
    numbers += tensor.numel();
    tensors[name] = {{"dtype", c10::toString(tensor.scalar_type())}, {"shape", tensor.sizes().vec()}};
    report.details += fmt::format(
        "  {}  {} {}\n", text::printable(name), c10::toString(tensor.scalar_type()),
        tensor.dim() == 0 ? std::string("scalar") : fmt::format("{}", fmt::join(tensor.sizes(), "×")));
  }
  report.json = {{"file", report.file}, {"kind", "weights"}, {"numbers", numbers}};
  if (!weights.key.empty()) report.json["key"] = weights.key;
  if (!weights.other_keys.empty()) report.json["other_keys"] = weights.other_keys;
  if (!weights.unknown_names.empty()) report.json["unknown_names"] = weights.unknown_names;
  report.json["metadata"] = weights.metadata;
  report.json["tensors"] = std::move(tensors);

  report.summary = fmt::format("weights{}, {} tensors, {} numbers",
                               weights.key.empty() ? "" : " at '" + text::printable(weights.key) + "'",
                               weights.tensors.size(), numbers);
  for (const auto& [key, value] : weights.metadata) {
    report.details += text::printable(key) + ": " + printable_lines(value);
  }
  if (!weights.other_keys.empty()) {
    report.details += text::printable(fmt::format("other weights, which --key selects: {}",
                                                  fmt::join(weights.other_keys, ", "))) +
                      '\n';
  }
  if (!weights.unknown_names.empty()) {
    const std::string names = text::printable(fmt::format("{}", fmt::join(weights.unknown_names, ", ")));
    report.details += "named in the file, never called: " + names + '\n';
    report.findings.push_back({unknown_class, "names classes other than tensors: " + names});
  }
}

/// True if a path has an extension of model files.
inline bool has_model_extension(const std::filesystem::path& path) {
  const std::string extension = files::lower_extension(path);
  for (const std::string_view usual :
       {".pt",   ".pth",  ".ckpt",   ".tar",  ".pkl",   ".pickle", ".bin",    ".safetensors",
        ".pt2",  ".onnx", ".h5",     ".hdf5", ".keras", ".pb",     ".tflite", ".mlmodel",
        ".gguf", ".ptl",  ".joblib", ".dill", ".npz",   ".mar",    ".t7"}) {
    if (extension == usual) return true;
  }
  return false;
}

/// Returns the names of entries whose headers are in a part of a ZIP archive.
inline std::vector<std::string> entry_names_in(std::string_view part) {
  constexpr std::size_t local = 30, central = 46;  // sizes of the headers, before the name
  std::vector<std::string> names;
  for (std::size_t at = part.find("PK"); at != part.npos; at = part.find("PK", at + 2)) {
    const std::string_view header = part.substr(at);
    const bool is_local = header.starts_with("PK\3\4");
    const std::size_t size = is_local ? local : central;
    if (!(is_local || header.starts_with("PK\1\2")) || header.size() < size) continue;
    const auto byte = [&](std::size_t i) {
      return static_cast<std::size_t>(static_cast<unsigned char>(header[i]));
    };
    const std::size_t length = is_local ? 26 : 28;
    names.emplace_back(header.substr(size, byte(length) + 256 * byte(length + 1)));
  }
  return names;
}

/// Returns the names of a ZIP archive's entries; of one that is damaged or has a comment, those at its beginning and
/// its end.
inline std::vector<std::string> entry_names(formats::detail::SeekableFile& file) {
  constexpr std::size_t max_entries = 10'000'000;  // also of a data set
  std::vector<std::string> names;
  try {
    for (const auto& entry : formats::detail::ZipDirectory(file, max_entries).read())
      names.push_back(entry.name);
  } catch (const Error&) {
    const std::uint64_t part = std::min<std::uint64_t>(file.size(), 65536);
    names = entry_names_in(file.read(0, static_cast<std::size_t>(part)));
    for (auto& name : entry_names_in(file.read(file.size() - part, static_cast<std::size_t>(part))))
      names.push_back(std::move(name));
  }
  return names;
}

/// True if a ZIP archive is a model. Other archives are passed over, as those of other formats are.
inline bool is_model_archive(formats::detail::SeekableFile& file) {
  const std::vector<std::string> names = entry_names(file);
  if (const auto foreign = formats::recognize_archive(names)) return foreign->is_model;
  return std::ranges::any_of(names, [](const std::string& name) {
    const std::string_view inner = std::string_view(name).substr(name.find('/') + 1);
    return inner == "data.pkl" || (inner.starts_with("models/") && inner.ends_with(".json"));
  });
}

/// True if there are no control characters but those of lines.
inline bool is_text(std::string_view bytes) {
  return std::ranges::all_of(
      bytes, [](unsigned char c) { return c >= 0x20 || c == '\t' || c == '\n' || c == '\r'; });
}

/// True if a file without a signature is a pickle of protocol 0 or 1: all of it is one, or it begins with one that
/// runs programs.
/// \param beginning the first bytes of the file
inline bool is_old_pickle(formats::detail::SeekableFile& file, std::string beginning) {
  constexpr std::uint64_t max_bytes = 1 << 28;
  for (;;) {
    formats::detail::PickleMachine machine({}, beginning);
    bool is_complete = true;
    try {
      machine.run();
    } catch (const Error&) {
      is_complete = false;
    }
    if (is_complete && machine.rest().empty() && beginning.size() == file.size()) return true;
    if (!formats::detail::find_program(beginning).name.empty()) return true;
    if (beginning.size() == file.size() || !(is_complete || machine.is_truncated())) return false;
    if (file.size() > max_bytes) return !is_text(beginning);
    beginning = file.read(0, static_cast<std::size_t>(file.size()));
  }
}

/// True if a file of another format has pickles in it that run programs.
inline bool hides_programs(const std::filesystem::path& path) {
  try {
    formats::detail::refuse_hidden_programs(path);
    return false;
  } catch (const formats::ProgramError&) {
    return true;
  }
}

/// True if a file is a model, by its content. False if it cannot be read.
inline bool has_model_content(const std::filesystem::path& path) {
  try {
    formats::detail::SeekableFile file(path);
    const std::string first =
        file.read(0, static_cast<std::size_t>(std::min<std::uint64_t>(file.size(), 65536)));
    if (first.size() > 1 && first[0] == '\x80' && first[1] >= 2 && first[1] <= 5) return true;  // a pickle
    if (formats::is_archive(first)) return is_model_archive(file);
    // An array of objects contains a pickle.
    if (first.starts_with("\x93NUMPY")) {
      return first.substr(0, 128).find("|O") != std::string::npos || hides_programs(path);
    }
    if (formats::detail::looks_like_safetensors(file)) return true;
    if (const auto foreign = formats::recognize(first, file.size()))
      return foreign->is_model || hides_programs(path);
    return is_old_pickle(file, first);
  } catch (const Error&) {
    return false;
  }
}

/// Returns a path as a URI, with escapes.
inline std::string uri_of(const std::string& path) {
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

}  // namespace refine::detail::inspection

namespace refine {

REFINE_INLINE bool Inspection::has_only_notes() const {
  return std::ranges::all_of(findings, [](const InspectionFinding& finding) {
    return std::string_view(finding.rule_of().level) == "note";
  });
}

REFINE_INLINE Inspection inspect_file(const std::string& file, const InspectOptions& options) {
  Inspection report{.file = file};
  const auto refuse = [&](std::size_t rule, const char* why) {
    report.error = std::current_exception();
    report.findings.push_back({rule, why});
    report.summary = why;
    report.json = {{"file", file}, {"kind", "refused"}, {"rule", inspection_rules[rule].id}, {"error", why}};
  };
  try {
    switch (detail::program_kind(file)) {
      case detail::ProgramKind::torchscript:
        detail::inspection::inspect_program(options, report);
        break;
      case detail::ProgramKind::exported:
        detail::inspection::inspect_exported(formats::read_archive(file), options, report);
        break;
      case detail::ProgramKind::onnx:
        detail::inspection::inspect_onnx(options, report);
        break;
      case detail::ProgramKind::none:
        detail::inspection::inspect_weights(options, report);
    }
  } catch (const formats::ProgramError& error) {
    refuse(detail::inspection::runs_program, error.what());
  } catch (const formats::ForeignFileError& error) {
    refuse(detail::inspection::other_format, error.what());
  } catch (const formats::NoWeightsError& error) {
    refuse(detail::inspection::no_weights, error.what());
  } catch (const Error& error) {
    refuse(detail::inspection::refused_file, error.what());
  }
  return report;
}

REFINE_INLINE ModelFiles find_model_files(const std::vector<std::string>& files_and_folders) {
  namespace fs = std::filesystem;
  ModelFiles result;
  const auto count_if_unreadable = [&](const fs::path& folder) {
    std::error_code failed;
    fs::directory_iterator(folder, failed);
    if (failed) ++result.unreadable_folders;
  };
  for (const std::string& each : files_and_folders) {
    std::error_code unknown;
    if (!fs::is_directory(each, unknown)) {
      result.files.push_back(each);
      continue;
    }
    count_if_unreadable(each);
    // A file may have several names, of which one tells what it is: the blobs of Hugging Face's cache have none.
    std::map<fs::path, std::vector<std::string>> names;
    for (const auto& entry :
         fs::recursive_directory_iterator(each, fs::directory_options::skip_permission_denied)) {
      if (entry.is_regular_file(unknown)) {
        fs::path file = fs::canonical(entry.path(), unknown);
        names[unknown ? entry.path() : std::move(file)].push_back(entry.path().string());
      } else if (entry.is_symlink(unknown)) {
        entry.is_directory(unknown) ? ++result.linked_folders : ++result.ignored;
      } else if (entry.is_directory(unknown)) {
        count_if_unreadable(entry.path());
      }
    }
    std::vector<std::string> found;
    for (auto& [file, all] : names) {
      std::ranges::sort(all);
      const auto named = std::ranges::find_if(all, detail::inspection::has_model_extension);
      if (named != all.end() || detail::inspection::has_model_content(file)) {
        found.push_back(named != all.end() ? *named : all.front());
      } else {
        ++result.ignored;
      }
    }
    std::ranges::sort(found);
    if (found.empty()) {
      throw Error(
          "cannot inspect {}: the folder contains no model file{}{}; name the file, or another folder", each,
          result.linked_folders > 0 ? ", and linked folders are not followed" : "",
          result.unreadable_folders > 0 ? ", and some folders cannot be listed" : "");
    }
    result.files.insert(result.files.end(), found.begin(), found.end());
  }
  return result;
}

REFINE_INLINE nlohmann::ordered_json sarif(const std::vector<Inspection>& inspections) {
  using nlohmann::ordered_json;
  ordered_json listed = ordered_json::array(), results = ordered_json::array();
  for (const InspectionRule& rule : inspection_rules) {
    listed.push_back({{"id", rule.id},
                      {"shortDescription", {{"text", rule.text}}},
                      {"defaultConfiguration", {{"level", rule.level}}}});
  }
  for (const Inspection& report : inspections) {
    for (const InspectionFinding& finding : report.findings) {
      const ordered_json place = {
          {"physicalLocation", {{"artifactLocation", {{"uri", detail::inspection::uri_of(report.file)}}}}}};
      results.push_back({{"ruleId", finding.rule_of().id},
                         {"ruleIndex", finding.rule},
                         {"level", finding.rule_of().level},
                         {"message", {{"text", text::printable(finding.text)}}},
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

}  // namespace refine
