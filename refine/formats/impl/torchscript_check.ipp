#pragma once

#include <refine/formats/torchscript_check.hpp>

#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <caffe2/serialize/inline_container.h>
#include <fmt/core.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <exception>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/detail/operators.hpp>
#include <refine/formats/detail/script_code.hpp>
#include <refine/formats/detail/script_pickle.hpp>
#include <refine/formats/detail/script_source.hpp>

namespace refine::formats {

REFINE_INLINE bool is_torchscript(const Archive& archive) {
  const auto in_code = archive.entries.lower_bound("code/");
  return archive.entries.contains("data.pkl") && archive.entries.contains("constants.pkl") &&
         in_code != archive.entries.end() && in_code->first.starts_with("code/");
}

}  // namespace refine::formats

namespace refine::formats::detail::script {

/// Returns the number in the version file of an archive; 0 if it is missing or malformed.
REFINE_INLINE int version(const Archive& archive) {
  for (const auto* name : {".data/version", "version"}) {
    const auto found = archive.entries.find(name);
    if (found == archive.entries.end()) continue;
    std::string_view text = found->second;
    if (text.ends_with('\n')) text.remove_suffix(1);
    const bool is_number = !text.empty() && text.size() <= 3 &&
                           std::ranges::all_of(text, [](unsigned char c) { return std::isdigit(c) != 0; });
    return is_number ? std::stoi(std::string(text)) : 0;
  }
  return 0;
}

/// Returns true if LibTorch needs the entry; the others are for debugging or for other programs.
REFINE_INLINE bool is_needed(std::string_view name) {
  return name == "data.pkl" || name == "constants.pkl" || name.starts_with("data/") ||
         name.starts_with("constants/") || (name.starts_with("code/") && name.ends_with(".py"));
}

REFINE_INLINE std::string rebuild_archive(Archive archive) {
  std::string bytes;
  caffe2::serialize::PyTorchStreamWriter writer([&](const void* data, std::size_t size) {
    bytes.append(static_cast<const char*>(data), size);
    return size;
  });
  const std::string number = std::to_string(version(archive)) + "\n";
  for (auto& [name, content] : archive.entries) {
    if (is_needed(name)) writer.writeRecord(name, content.data(), content.size());
    content = std::string();
  }
  const std::string order = "little";
  writer.writeRecord("version", number.data(), number.size());
  writer.writeRecord("byteorder", order.data(), order.size());
  writer.writeEndOfFile();
  return bytes;
}

/// Collects the kinds of nodes in a block that a checked source file cannot produce.
REFINE_INLINE void collect_forbidden(const torch::jit::Block* block, std::set<std::string>& found) {
  for (const torch::jit::Node* node : block->nodes()) {
    const std::string kind = node->kind().toQualString();
    if (!operators::permits_node(kind)) found.insert(kind);
    for (const torch::jit::Block* inner : node->blocks()) collect_forbidden(inner, found);
  }
}

REFINE_INLINE std::set<std::string> forbidden_nodes(const torch::jit::Module& module) {
  std::set<std::string> found;
  for (torch::jit::Function* function : module._ivalue()->compilation_unit()->get_functions()) {
    if (auto* graph = torch::jit::tryToGraphFunction(*function)) {
      collect_forbidden(graph->graph()->block(), found);
    } else {
      found.insert(function->qualname().qualifiedName());
    }
  }
  return found;
}

/// The kinds of objection, the most serious first.
inline constexpr std::array by_severity = {Objection::Kind::quantized, Objection::Kind::harmful,
                                           Objection::Kind::library, Objection::Kind::unsupported,
                                           Objection::Kind::unknown};

REFINE_INLINE std::string advice(const TorchScriptListing& listing) {
  const auto kind =
      std::ranges::find_if(by_severity, [&](Objection::Kind each) { return listing.has(each); });
  switch (kind == by_severity.end() ? Objection::Kind::unknown : *kind) {
    case Objection::Kind::quantized:
      return "no gradient passes through a quantised operator, so no defense can be trained, even with --trust; "
             "export the float model, before it is quantised";
    case Objection::Kind::library:
      return "refine has only the operators of PyTorch, even with --trust; export the model without it";
    case Objection::Kind::unsupported:
      return "export the model again as float32, with a PyTorch release that this LibTorch reads; "
             "--trust does not help";
    case Objection::Kind::unknown:
      return "it may be harmless: if you trust the source of the file, run it with --trust";
    case Objection::Kind::harmful:
      break;
  }
  return "it may be a harmful program: look at it with refine inspect --code, "
         "and run it with --trust only if you trust the source of the file";
}

/// Throws the Error with the most serious objection.
[[noreturn]] REFINE_INLINE void refuse(const std::filesystem::path& path, const TorchScriptListing& listing) {
  const auto first =
      *std::ranges::find_if(by_severity, [&](Objection::Kind each) { return listing.has(each); });
  refuse_program(path, listing.objections, first, advice(listing));
}

/// Returns true if the file is refused even if it is trusted, because it could not be used.
REFINE_INLINE bool is_unusable(const TorchScriptListing& listing) {
  return listing.has(Objection::Kind::quantized) || listing.has(Objection::Kind::unsupported);
}

}  // namespace refine::formats::detail::script

namespace refine::formats {

REFINE_INLINE bool TorchScriptListing::has(Objection::Kind kind) const {
  return detail::has_objection(objections, kind);
}

REFINE_INLINE TorchScriptListing inspect_torchscript(const Archive& archive) {
  using namespace detail::script;
  if (!is_torchscript(archive)) {
    throw Error(
        "cannot read the archive: not a TorchScript file, data.pkl, constants.pkl or code/ is missing; "
        "load a file of weights into a network of this library");
  }
  TorchScriptListing listing;
  const auto report = [&](Objection objection) {
    detail::add_objection(listing.objections, std::move(objection));
  };
  const auto report_harmful = [&](std::string text) { report({Objection::Kind::harmful, std::move(text)}); };
  std::size_t source_bytes = 0;
  for (const auto& [name, bytes] : archive.entries) {
    constexpr std::string_view extra_folder = "extra/", code_folder = "code/", ending = ".py";
    if (name.starts_with(extra_folder)) listing.extra[name.substr(extra_folder.size())] = bytes;
    if (name != "data.pkl" && name != "constants.pkl") {
      const detail::ProgramSearch search = detail::find_program_in_entry(name, bytes);
      if (!search.name.empty()) report_harmful(fmt::format("its entry {} asks for {}", name, search.name));
    }
    if (!is_needed(name)) continue;
    if (!name.starts_with(code_folder)) continue;
    source_bytes += bytes.size();
    if (name.find('.') != name.size() - ending.size()) {
      report_harmful(fmt::format("its code has a file name with a dot ({})", name));
    } else {
      listing.code[name] = bytes;
    }
  }
  constexpr int oldest = caffe2::serialize::kMinSupportedFileFormatVersion;
  constexpr int newest = caffe2::serialize::kMaxSupportedFileFormatVersion;
  constexpr int first_typed = 3;  // before, lists and dicts carry no type
  const int number = version(archive);
  if (number < oldest || number > newest) {
    report(
        {Objection::Kind::unsupported,
         fmt::format("its format has version {}, but this LibTorch reads {} to {}", number, oldest, newest)});
  }
  const auto order = archive.entries.find("byteorder");
  if (order != archive.entries.end() && order->second != "little") {
    report({Objection::Kind::unsupported, "its byte order is not little-endian"});
  }
  if (source_bytes > max_source_bytes) {
    report_harmful(
        fmt::format("its code has {} bytes, more than the {} allowed", source_bytes, max_source_bytes));
    return listing;
  }

  const CodeCheck code(listing.code, report);
  listing.operators = code.operators();
  for (const std::string part : {"data", "constants"}) {
    const std::string& bytes = archive.entries.at(part + ".pkl");
    PickleCheck check(bytes, archive.entries, part + "/", code, number < first_typed);
    try {
      constexpr std::size_t max_pickle_bytes = std::size_t{16} << 20;
      if (bytes.size() > max_pickle_bytes) {
        throw std::runtime_error(
            fmt::format("has {} bytes, more than the {} allowed", bytes.size(), max_pickle_bytes));
      }
      const auto whole = check.run();
      const bool is_module =
          whole->kind == PickleItem::Kind::object && code.classes().at(whole->text).is_module;
      if (part == "data" ? !is_module : whole->kind != PickleItem::Kind::tuple) {
        throw std::runtime_error("has content of the wrong type");
      }
    } catch (const UnsupportedTensorError& error) {
      report({error.quantized ? Objection::Kind::quantized : Objection::Kind::unsupported,
              fmt::format("its {}.pkl {}", part, error.what())});
    } catch (const std::runtime_error& error) {
      report_harmful(fmt::format("its {}.pkl {}", part, error.what()));
    }
    listing.classes.insert(check.classes().begin(), check.classes().end());
  }
  return listing;
}

REFINE_INLINE TorchScriptFile load_torchscript(const std::filesystem::path& path, Trust trust) {
  using namespace detail::script;
  Archive archive = read_archive(path);
  if (!is_torchscript(archive)) {
    throw Error(
        "cannot load {}: not a TorchScript file, data.pkl, constants.pkl or code/ is missing; "
        "load a file of weights into a network of this library",
        path.string());
  }
  TorchScriptFile file{torch::jit::Module(), inspect_torchscript(archive)};
  if (is_unusable(file.listing) || (trust == Trust::checked && !file.listing.objections.empty())) {
    refuse(path, file.listing);
  }
  const auto fail = [&](const char* problem) {
    if (file.listing.has(Objection::Kind::library)) refuse(path, file.listing);
    throw Error(
        "cannot load {}: LibTorch reports: {}; the file is damaged or of another PyTorch release, get it again",
        path.string(), first_line(problem));
  };
  try {
    std::istringstream stream(rebuild_archive(std::move(archive)));
    torch::jit::ExtraFilesMap none;
    file.module = torch::jit::load(stream, c10::Device(c10::kCPU), none, /*load_debug_files=*/false);
  } catch (const c10::Error& error) {
    fail(error.what_without_backtrace());
  } catch (const std::exception& error) {
    fail(error.what());
  }
  for (const std::string& kind : forbidden_nodes(file.module)) {
    Objection objection = objection_to(kind, "compiles to", "");
    if (trust == Trust::checked || objection.kind == Objection::Kind::quantized) {
      file.listing.objections.push_back(std::move(objection));
    }
  }
  if (is_unusable(file.listing) || (trust == Trust::checked && !file.listing.objections.empty())) {
    refuse(path, file.listing);
  }
  return file;
}

}  // namespace refine::formats
