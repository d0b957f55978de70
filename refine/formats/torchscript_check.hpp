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

/// What a TorchScript file would run and build.
struct TorchScriptListing {
  std::map<std::string, std::string> code = {};   ///< source files in the archive, by path
  std::set<std::string> operators = {};           ///< every operator that they name, as "aten::conv2d"
  std::set<std::string> classes = {};             ///< the classes that data.pkl and constants.pkl build
  std::vector<Objection> objections = {};         ///< why the file is refused; empty if it is accepted
  std::map<std::string, std::string> extra = {};  ///< content of the files under extra/, by name

  /// Returns true if one of the objections is of that kind.
  bool has(Objection::Kind kind) const;
};

/// Returns true if an archive is a TorchScript file, that is, a program and not only weights.
bool is_torchscript(const Archive& archive);

/// Lists what a TorchScript file would run and build. Nothing of the file is executed.
///
/// \code{.cpp}
/// const auto listing = formats::inspect_torchscript(formats::read_archive("model.pt"));
/// for (const auto& objection : listing.objections) fmt::print("{}\n", objection.text);
/// \endcode
///
/// \param archive the content of the file
/// \return the listing, with an objection for whatever is not arithmetic on tensors
/// \throws Error if the archive is not a TorchScript file
TorchScriptListing inspect_torchscript(const Archive& archive);

/// A TorchScript file that was checked and loaded.
struct TorchScriptFile {
  torch::jit::Module module;   ///< the program, on the CPU, in the mode in which it was saved
  TorchScriptListing listing;  ///< what it runs and builds
};

/// Loads a TorchScript file, which is a program, onto the CPU.
///
/// With `Trust::checked`, the source and everything that the file would build are checked first
/// (`inspect_torchscript`). If the file names anything but arithmetic on tensors (the list in
/// `detail/operators.hpp`), nothing of it runs: no file access, no process, no network, no custom
/// class, no method that runs during loading. LibTorch then reads an archive that is rebuilt from
/// the checked entries, and the compiled graphs are checked again. The check cannot bound how long
/// the program runs and how much memory it allocates: if that matters, run it in a process with
/// limits.
///
/// A quantised program is refused at either trust level: no gradient passes through it, and
/// LibTorch may crash on its packed weights instead of reporting an error. Debug entries
/// (`.debug_pkl`) are never read.
///
/// \code{.cpp}
/// auto file = formats::load_torchscript("model.pt");
/// const at::Tensor logits = file.module.forward({images}).toTensor();
/// \endcode
///
/// \param path the file
/// \param trust whether an unchecked program may run
/// \return the module and the listing
/// \throws Error naming the file and the most serious objection, or if the file is damaged
TorchScriptFile load_torchscript(const std::filesystem::path& path, Trust trust = Trust::checked);

namespace detail::script {

/// Returns the hint of a refusal: what the user can do about the objections.
std::string advice(const TorchScriptListing& listing);

/// Writes the checked entries into a new archive, which LibTorch then reads.
/// \param archive the entries; taken by value, because they may be large
/// \return the bytes of the new archive
std::string rebuild_archive(Archive archive);

/// Returns the kinds of nodes in the compiled graphs of `module` that a checked program may not
/// contain.
std::set<std::string> forbidden_nodes(const torch::jit::Module& module);

}  // namespace detail::script
}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/torchscript_check.ipp>
#endif
