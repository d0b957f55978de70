#pragma once

#include <ATen/core/Tensor.h>
#include <refine/core/error.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace refine::formats {

/// A model's tensors by their names in its state dict, and text about them.
struct Weights {
  std::map<std::string, at::Tensor> tensors = {};
  std::map<std::string, std::string> metadata = {};
  std::string key = {};                      ///< where in a checkpoint they lie; empty: the file is a state dict
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

#if !defined(REFINE_COMPILED)
#include <refine/formats/weights_definitions.hpp>
#endif
