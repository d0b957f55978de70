#pragma once

#include <ATen/core/Tensor.h>
#include <refine/core/error.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace refine::formats {

/// A model's tensors by their names in its state dict, and text about them.
struct Weights {
  std::map<std::string, at::Tensor> tensors = {};
  std::map<std::string, std::string> metadata = {};
};

/// Reads a model's weights from a safetensors file or what torch.save wrote, told apart by content. A state
/// dict may lie in a checkpoint under "state_dict", "model_state_dict", "model", "net" or "weights"; the
/// checkpoint's texts and integers come as metadata then. A prefix "module." that all names share is taken
/// off. The tensors come on the host, contiguous, with memory of their own.
/// \throws Error as `read_safetensors` and `read_torch_file`, or when there is no tensor or something else
/// among them. A module that was saved whole is refused by its class
Weights read_weights(const std::filesystem::path& path);

/// Reads a permutation of 0 … n-1 that torch.save or pickle wrote: a list, tuple, NumPy array or tensor of n
/// integers. The reference keeps its renaming of the classes so, as label_shuffle.pth.
/// \throws Error as `read_torch_file`, or when it is no permutation
std::vector<std::int64_t> read_permutation(const std::filesystem::path& path);

}  // namespace refine::formats

#if !defined(REFINE_COMPILED)
#include <refine/formats/weights_definitions.hpp>
#endif
