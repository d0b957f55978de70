#pragma once

#include <torch/csrc/jit/api/module.h>

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/detail/objection.hpp>

namespace refine::formats {

/// Whether a file that is a program may run unchecked.
enum class Trust {
  checked,  ///< what the file names must be arithmetic on tensors
  blind,    ///< whatever it names may run with all rights of this process, if its maker is trusted
};

/// What a TorchScript file would run and build.
struct TorchScriptListing {
  std::map<std::string, std::string> code = {};   ///< source files in the archive, by path
  std::set<std::string> operators = {};           ///< every operator that they name, as "aten::conv2d"
  std::set<std::string> classes = {};             ///< the classes that data.pkl and constants.pkl build
  std::vector<Objection> objections = {};         ///< what is refused, by name, and where
  std::map<std::string, std::string> extra = {};  ///< files under extra/

  /// Whether one of the objections is of that kind.
  bool has(Objection::Kind kind) const;
};

/// Whether an archive is a TorchScript file: a program, and no weights alone.
bool is_torchscript(const Archive& archive);

namespace detail::script {

/// How a refusal of these objections ends: what the user can do.
std::string advice(const TorchScriptListing& listing);

/// An archive of nothing but what was looked at, as LibTorch is to see it. It takes the entries, which may be large.
std::string rebuilt(Archive archive);

std::set<std::string> foreign_nodes(const torch::jit::Module& module);

}  // namespace detail::script

/// What a TorchScript file would run and build, found without running or building any of it.
/// \throws Error when the archive is no TorchScript file
TorchScriptListing inspect_torchscript(const Archive& archive);

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
/// where that matters, run it in a process with limits.
///
/// A quantised program is refused with either trust: no gradient passes it, and what LibTorch does with its
/// packed weights later is no error but a crash. Entries for debugging (`.debug_pkl`) are never read.
/// \throws Error naming the file and the first of the objections, and when the file is damaged
TorchScriptFile load_torchscript(const std::filesystem::path& path, Trust trust = Trust::checked);

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/torchscript_check.ipp>
#endif
