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
#include <refine/formats/detail/pickle_value.hpp>

namespace refine::formats {

namespace detail {

/// What a file of torch.save holds, which may be one opaque object.
struct TorchFile {
  Value value;
  std::set<std::string> unknown_names = {};  ///< what it asks for that was not made, and never called
};

/// The file of PyTorch before 1.6, or one pickle.
TorchFile read_unzipped(const std::filesystem::path& path, std::string_view bytes);

TorchFile read_any_torch_file(const std::filesystem::path& path);

[[noreturn]] void refuse_opaque(const std::filesystem::path& path, std::string_view name);

}  // namespace detail

/// Reads what torch.save wrote, in today's form (an archive) or the one before PyTorch 1.6, or a bare pickle
/// without tensors (lists, NumPy arrays). Nothing in the file is run: see `read_pickle`, which also has the
/// limits, and `read_archive`. An object of an unknown class in it is `Opaque`.
/// \throws Error naming the file, when it is cut, damaged or of another kind (`recognize`), big-endian, a
/// TorchScript program, or one opaque object as a whole
Value read_torch_file(const std::filesystem::path& path);

/// A model's tensors by their names in its state dict, and text about them.
struct Weights {
  std::map<std::string, at::Tensor> tensors = {};
  std::map<std::string, std::string> metadata = {};
  std::string key = {};  ///< where in a checkpoint they lie; empty: the file is a state dict
  std::vector<std::string> other_keys = {};  ///< other sets of weights in it, as `read_weights` takes them
  std::set<std::string> unknown_names = {};  ///< classes and functions that the file names; none was called
};

namespace detail {

struct TorchFile;

Weights weights_of(const TorchFile& file, const std::filesystem::path& path, std::string_view key);

}  // namespace detail

/// Reads a model's weights from a safetensors file or what torch.save wrote, told apart by content.
///
/// In a checkpoint the state dict is found by content: a dict of tensors by name, wherever it lies under keys of
/// text. Of several, one under the usual names ("state_dict", "model_state_dict", "model", "net", "weights",
/// "netC") is taken, else the one of which all others are averages (EMA). What else is in the checkpoint does
/// not matter, objects of unknown classes included; its texts and integers come as metadata.
///
/// Names come without what wrappers put before them: "module." (DataParallel, SWA), "_orig_mod." (compile),
/// "model.", "net." and the like (Lightning), where all names have it. The tensors come on the host,
/// contiguous, with memory of their own.
///
/// \param key which weights: a path of keys, parted by "/" or ".", such as "state_dict_ema"; its end may be
/// what the names begin with, such as "state_dict/model_ema"; empty: found by content
/// \throws Error as `read_safetensors` and `read_torch_file`, when there are no weights or it is open which, and
/// when they are no plain tensors. A module that was saved whole is refused by its class
Weights read_weights(const std::filesystem::path& path, std::string_view key = {});

/// Takes the first part of the names, up to a dot, off where all tensors share it. \returns whether they did
bool strip_shared_prefix(std::map<std::string, at::Tensor>& tensors);

/// Reads a permutation of 0 … n-1 that torch.save or pickle wrote: a list, tuple, NumPy array or tensor of n
/// integers. The reference keeps its renaming of the classes so, as label_shuffle.pth.
/// \throws Error as `read_torch_file`, or when it is no permutation
std::vector<std::int64_t> read_permutation(const std::filesystem::path& path);

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/checkpoint.ipp>
#endif
