#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/value.hpp>

namespace refine::formats {

/// The weights of a model, and text about them.
struct Weights {
  std::map<std::string, at::Tensor> tensors = {};    ///< tensors by name, as in the model's state dict
  std::map<std::string, std::string> metadata = {};  ///< text and integers stored beside the weights
  std::string key = {};  ///< where the state dict lies in the checkpoint; empty if the file is a state dict
  std::vector<std::string> other_keys = {};  ///< keys of the other sets of weights in the file
  std::set<std::string> unknown_names = {};  ///< classes and functions that the file names; none is called
};

/// Reports a file that can be read but has no weights: only plain values, and no unknown class or
/// function.
struct NoWeightsError : Error {
  using Error::Error;
};

/// Reads the weights of a model from a safetensors file or a file of torch.save, recognized by
/// content.
///
/// In a checkpoint, the state dict is found by content: a dict of tensors by name, nested under
/// text keys. Of several, the one under a usual name ("state_dict", "model_state_dict", "model",
/// "net", "weights", "netC") is taken; if there is none, the one of which all others are averages
/// (EMA). Anything else in the checkpoint is ignored, including objects of unknown classes; its
/// texts and integers become metadata.
///
/// Prefixes that wrappers put before all names are removed: "module." (DataParallel, SWA),
/// "_orig_mod." (torch.compile), "model.", "net." and the like (Lightning).
///
/// \code{.cpp}
/// const auto weights = formats::read_weights("checkpoint.pth", "state_dict_ema");
/// \endcode
///
/// \param path the file
/// \param key which weights to read, as keys separated by "/" or ".", such as "state_dict_ema"; the
///        end of it may be a prefix of the names, such as "state_dict/model_ema"; empty: found by
///        content
/// \return tensors on the CPU, contiguous, each with its own memory
/// \throws Error as `read_safetensors` and `read_torch_file`
/// \throws Error if the file has no weights, several candidates, none at `key`, or tensors of an
///         unsupported kind; a module that was saved whole is refused by its class
/// \throws NoWeightsError if the file has only plain values
Weights read_weights(const std::filesystem::path& path, std::string_view key = {});

/// Reads a file of torch.save, in the archive format or the format before PyTorch 1.6, or a bare
/// pickle without tensors (lists, NumPy arrays). Nothing in the file is executed. The limits are
/// those of `read_pickle` and `read_archive`. An object of an unknown class becomes `Opaque`.
/// \param path the file
/// \return the content
/// \throws Error naming the file if it is truncated, damaged, big-endian, a TorchScript program, or
///        one opaque object as a whole
/// \throws ForeignFileError if it is a file of another kind (`recognize_file`)
/// \throws ProgramError if it names a function that runs programs
Value read_torch_file(const std::filesystem::path& path);

/// Reads a permutation of 0 … n-1 from a file of torch.save or pickle: a list, tuple, NumPy array
/// or tensor of n integers. The authors' code stores its label permutation this way, as
/// label_shuffle.pth.
/// \param path the file
/// \return the permutation, n ≥ 1
/// \throws Error as `read_torch_file`, or if the content is not a permutation
std::vector<std::int64_t> read_permutation(const std::filesystem::path& path);

/// Removes the first part of all names, up to a dot, if all tensors share it.
/// \param tensors tensors by name; renamed in place
/// \return true if the names were changed
bool strip_shared_prefix(std::map<std::string, at::Tensor>& tensors);

namespace detail {

class SeekableFile;

/// Returns true if a file begins like safetensors: the size of the header in eight bytes, then the
/// header.
bool looks_like_safetensors(SeekableFile& file);

/// The content of a file of torch.save, which may be one opaque object.
struct TorchFile {
  Value value;                               ///< the content
  std::set<std::string> unknown_names = {};  ///< classes and functions that the file names; none is called
};

/// Reads a file in the format before PyTorch 1.6, or one pickle.
/// \param path where the bytes come from, for messages
/// \param bytes the whole file
/// \return the content
/// \throws Error if the file is malformed
TorchFile read_unzipped(const std::filesystem::path& path, std::string_view bytes);

/// Reads an archive of torch.save: data.pkl, and the storage with key k under data/k.
/// \param path where the archive comes from, for messages
/// \param archive its content
/// \return the content
/// \throws Error if it is malformed or of another kind
TorchFile read_zipped(const std::filesystem::path& path, const Archive& archive);

/// Reads any file of torch.save.
/// \param path the file
/// \return the content
/// \throws Error as `read_torch_file`, except for an opaque object as a whole
TorchFile read_any_torch_file(const std::filesystem::path& path);

/// Extracts the weights from a file of torch.save.
/// \param file the content
/// \param path where it comes from, for messages
/// \param key as in `read_weights`
/// \return the weights; prefixes of wrappers are still in the names
/// \throws Error as `read_weights`
Weights extract_weights(const TorchFile& file, const std::filesystem::path& path, std::string_view key);

/// The result of searching pickles for names that run programs.
struct ProgramSearch {
  std::string name = {};      ///< the first such name; empty if there is none
  bool is_truncated = false;  ///< true if the bytes end in the middle of a pickle
};

/// Searches a sequence of pickles for names that run programs.
/// \param bytes read as one pickle after the other, as Python would, up to the first that is
///        malformed
/// \return the first name found, or whether the bytes are truncated
ProgramSearch find_program(std::string_view bytes);

/// Searches an entry of an archive likewise, if its name or its content is that of a pickle.
/// \param name path of the entry
/// \param bytes content of the entry
/// \return as `find_program`
ProgramSearch find_program_in_entry(std::string_view name, std::string_view bytes);

/// Refuses a file that Python's pickle module would run, although it looks like another format. The
/// signatures of some formats are valid pickle instructions, a tar archive may have pickles in it,
/// and a NumPy array of Python objects is stored as a pickle.
/// \param path the file
/// \throws ProgramError if the file names a function that runs programs
/// \throws Error if the file cannot be read
void refuse_hidden_programs(const std::filesystem::path& path);

/// Throws the Error for a file that is one object of class `name`.
/// \throws Error always
[[noreturn]] void refuse_opaque(const std::filesystem::path& path, std::string_view name);

}  // namespace detail
}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/checkpoint.ipp>
#endif
