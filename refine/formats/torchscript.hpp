#pragma once

#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/serialization/import.h>

#include <fmt/core.h>
#include <algorithm>
#include <cctype>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/operators.hpp>
#include <refine/formats/script_code.hpp>
#include <refine/formats/script_pickle.hpp>
#include <refine/formats/script_source.hpp>

namespace refine::formats {

/// Whether a file that is a program may run unchecked.
enum class Trust {
  checked,  ///< what the file names must be arithmetic on tensors
  blind,    ///< whatever it names may run with all rights of this process: for whoever trusts its maker
};

/// What a TorchScript file would run and build.
struct TorchScriptListing {
  std::map<std::string, std::string> code = {};   ///< source files in the archive, by path
  std::set<std::string> operators = {};           ///< every operator that they name, as "aten::conv2d"
  std::set<std::string> classes = {};             ///< the classes that data.pkl and constants.pkl build
  std::vector<std::string> objections = {};       ///< what is refused, by name, and where; one clause each
  std::map<std::string, std::string> extra = {};  ///< files under extra/
};

/// Whether an archive is a TorchScript file: a program, and no weights alone.
inline bool is_torchscript(const Archive& archive) {
  const auto in_code = archive.entries.lower_bound("code/");
  return archive.entries.contains("data.pkl") && archive.entries.contains("constants.pkl") &&
         in_code != archive.entries.end() && in_code->first.starts_with("code/");
}

namespace detail::script {

/// The number in an archive's version file; 0 where there is none.
inline int version(const Archive& archive) {
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

/// Whether LibTorch is to see the entry; the rest is for debugging, or for other programs.
inline bool is_needed(std::string_view name) {
  return name == "data.pkl" || name == "constants.pkl" || name.starts_with("data/") ||
         name.starts_with("constants/") || (name.starts_with("code/") && name.ends_with(".py"));
}

/// An archive of nothing but what was looked at. It takes the entries, which may be large.
inline std::string rebuilt(Archive archive) {
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

/// The kinds of the nodes in a block that no source file should have been able to bring about.
inline void collect_foreign(const torch::jit::Block* block, std::set<std::string>& found) {
  for (const torch::jit::Node* node : block->nodes()) {
    const std::string kind = node->kind().toQualString();
    if (!operators::permits_node(kind)) found.insert(kind);
    for (const torch::jit::Block* inner : node->blocks()) collect_foreign(inner, found);
  }
}

inline std::set<std::string> foreign_nodes(const torch::jit::Module& module) {
  std::set<std::string> found;
  for (torch::jit::Function* function : module._ivalue()->compilation_unit()->get_functions()) {
    if (auto* graph = torch::jit::tryToGraphFunction(*function)) {
      collect_foreign(graph->graph()->block(), found);
    } else {
      found.insert(function->qualname().qualifiedName());
    }
  }
  return found;
}

[[noreturn]] inline void refuse(const std::filesystem::path& path,
                                const std::vector<std::string>& objections) {
  std::string more;
  if (objections.size() > 1) more = fmt::format(", and {} more", objections.size() - 1);
  throw Error(
      "cannot load {}: {}{}; it may be a program that harms: look at it, and load it blindly only if you "
      "trust who made it",
      path.string(), objections.front(), more);
}

}  // namespace detail::script

/// What a TorchScript file would run and build, found without running or building any of it.
/// \throws Error when the archive is no TorchScript file
inline TorchScriptListing inspect_torchscript(const Archive& archive) {
  using namespace detail::script;
  if (!is_torchscript(archive)) {
    throw Error(
        "cannot read the archive as a TorchScript file: it lacks data.pkl, constants.pkl or code/; a file of "
        "weights alone is given to a network of this library");
  }
  TorchScriptListing listing;
  const auto object = [&](std::string clause) {
    constexpr std::size_t most = 1000;  // what is told; the first is enough to refuse
    if (listing.objections.size() < most &&
        std::ranges::find(listing.objections, clause) == listing.objections.end())
      listing.objections.push_back(std::move(clause));
  };
  std::set<std::string> folded;
  std::size_t source_bytes = 0;
  for (const auto& [name, bytes] : archive.entries) {
    constexpr std::string_view of_extra = "extra/", of_code = "code/", ending = ".py";
    if (name.starts_with(of_extra)) listing.extra[name.substr(of_extra.size())] = bytes;
    if (!is_needed(name)) continue;
    std::string lower = name;
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
    if (!folded.insert(lower).second)
      object(fmt::format("its entry {} is there in capitals and without", name));
    if (!name.starts_with(of_code)) continue;
    source_bytes += bytes.size();
    if (name.find('.') != name.size() - ending.size()) {
      object(fmt::format("its code lies under a name with a dot ({})", name));
    } else {
      listing.code[name] = bytes;
    }
  }
  constexpr int oldest = 3, newest = caffe2::serialize::kMaxSupportedFileFormatVersion;
  if (const int number = version(archive); number < oldest || number > newest) {
    object(
        fmt::format("its format has the version {}, this LibTorch reads {} to {}", number, oldest, newest));
  }
  const auto order = archive.entries.find("byteorder");
  if (order != archive.entries.end() && order->second != "little")
    object("its numbers are not little-endian");
  if (source_bytes > most_source_bytes) {
    object(fmt::format("its code has {} bytes, more than the {} allowed", source_bytes, most_source_bytes));
    return listing;
  }

  const CodeCheck code(listing.code, object);
  listing.operators = code.operators();
  for (const std::string part : {"data", "constants"}) {
    const std::string& bytes = archive.entries.at(part + ".pkl");
    PickleCheck check(bytes, archive.entries, part + "/", code);
    try {
      constexpr std::size_t most_pickle_bytes = std::size_t{16} << 20;
      if (bytes.size() > most_pickle_bytes) throw std::runtime_error("is too long");
      const auto whole = check.run();
      const bool is_module = whole->kind == Pickled::Kind::object && code.classes().at(whole->text).is_module;
      if (part == "data" ? !is_module : whole->kind != Pickled::Kind::tuple) {
        throw std::runtime_error("does not hold what it should");
      }
    } catch (const std::runtime_error& error) {
      object(fmt::format("its {}.pkl {}", part, error.what()));
    }
    listing.classes.insert(check.classes().begin(), check.classes().end());
  }
  return listing;
}

/// A TorchScript file that was looked at and loaded.
struct TorchScriptFile {
  torch::jit::Module module;
  TorchScriptListing listing;
};

/// Loads a TorchScript file, which is a program, onto the host; it is in the mode in which it was saved. With
/// `Trust::checked` all its source and all that it would build is looked at first (`inspect_torchscript`),
/// and nothing of it runs when it names anything but arithmetic on tensors (`operators`): no file, no
/// process, no network, no class of somebody else's, no method that runs while it is loaded. LibTorch then
/// reads an archive that is made afresh of what was looked at, and the graphs that it compiles are looked at
/// once more. What can't be known beforehand is how long the program runs and how much memory it asks for:
/// where that matters, run it in a process with limits. \throws Error naming the file and the first of the
/// objections, and when the file is damaged
inline TorchScriptFile load_torchscript(const std::filesystem::path& path, Trust trust = Trust::checked) {
  using namespace detail::script;
  Archive archive = read_archive(path);
  if (!is_torchscript(archive)) {
    throw Error(
        "cannot load {}: it is no TorchScript file, for it lacks data.pkl, constants.pkl or code/; a file of "
        "weights alone is given to a network of this library",
        path.string());
  }
  TorchScriptFile file{torch::jit::Module(), inspect_torchscript(archive)};
  if (trust == Trust::checked && !file.listing.objections.empty()) refuse(path, file.listing.objections);
  try {
    std::istringstream stream(rebuilt(std::move(archive)));
    torch::jit::ExtraFilesMap none;
    file.module = torch::jit::load(stream, c10::Device(c10::kCPU), none, /*load_debug_files=*/false);
  } catch (const c10::Error& error) {
    throw Error("cannot load {}: LibTorch says: {}; the file is damaged or of another release, get it again",
                path.string(), first_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    throw Error("cannot load {}: LibTorch says: {}; the file is damaged or of another release, get it again",
                path.string(), first_line(error.what()));
  }
  if (trust == Trust::checked) {
    for (const std::string& kind : foreign_nodes(file.module)) {
      file.listing.objections.push_back(
          fmt::format("its code comes to the operator {}, which is no tensor arithmetic", kind));
    }
    if (!file.listing.objections.empty()) refuse(path, file.listing.objections);
  }
  return file;
}

}  // namespace refine::formats
