#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>

// What `Scripted` and `ExportedProgram` ask of a program's outputs.
namespace refine::backbones::detail {

/// Returns n images whose values rise from 0 to 1.
inline at::Tensor ramp(std::int64_t n, const ImageShape& shape) {
  return at::linspace(0, 1, n * shape.channels * shape.height * shape.width)
      .view({n, shape.channels, shape.height, shape.width})
      .contiguous(at::MemoryFormat::ChannelsLast);
}

/// True if a tensor is images×classes, with at least 2 classes.
inline bool is_logits(const at::Tensor& output, std::int64_t images) {
  return output.dim() == 2 && output.size(0) == images && output.size(1) >= 2 && output.is_floating_point();
}

/// Returns how to export a model whose output has this shape, so that it returns logits; "" if that is not known.
/// \param sizes of the output; those that are not known are `dynamic`
/// \param images number of images that it is the output for; `dynamic`: not known
inline std::string advice_on_export(const std::vector<std::int64_t>& sizes, bool is_floating_point,
                                    std::int64_t images = dynamic) {
  const auto is_1 = [](std::int64_t size) { return size == 1; };
  if (sizes.size() > 2 && std::all_of(sizes.begin() + 2, sizes.end(), is_1))
    return "extents of 1 follow the classes: export it with torch.flatten(logits, 1)";
  if (sizes.size() == 1 && images == 1 && sizes[0] != 1)
    return "the images' extent is missing for one image: export it without squeeze()";
  if (sizes.size() != 1 && !(sizes.size() == 2 && is_1(sizes[1]))) return "";
  return is_floating_point
             ? "it returns one number per image, as a classifier of two classes may: export it with a logit for "
               "each, x = x.flatten(); torch.stack([torch.zeros_like(x), x], 1) for the number x before a sigmoid"
             : "it returns the class, as argmax does: export it without argmax";
}

/// True if each row of the logits is a distribution, so that their logarithm must be taken.
inline bool are_probabilities(const at::Tensor& output) {
  return output.min().item<double>() >= 0 &&
         at::allclose(output.sum(1), at::ones({output.size(0)}, output.options()), 0, 1e-3);
}

/// \throws Error if a program has another number of classes than was specified
inline void require_classes(const std::string& name, int specified, int found) {
  if (compatible(specified, found)) return;
  throw Error("cannot use {}: it predicts {} classes, but {} were specified; specify that number, or none",
              name, found, specified);
}

/// Lists outputs in a message: "0 (2×10), 1 'aux' (2×10)".
/// \param all have a member `name`: a position, a key or a field
/// \param sizes output → its sizes
/// \param included position → whether it is listed
template <typename Outputs>
std::string list_outputs(const Outputs& all, auto&& sizes, auto&& included) {
  std::string text;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!included(i)) continue;
    const std::string position = std::to_string(i);
    const bool has_name = all[i].name != position && !all[i].name.empty();
    text += fmt::format("{}{}{} ({})", text.empty() ? "" : ", ", position,
                        has_name ? " '" + all[i].name + "'" : "", sizes(all[i]));
  }
  return text;
}

/// Returns the position of the output that was specified.
/// \param wanted its position, key or field name
/// \throws Error if there is none; `list` names all
template <typename Outputs>
std::size_t find_output(const Outputs& all, const std::string& wanted, const std::string& name,
                        const std::string& list) {
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (wanted == all[i].name || wanted == std::to_string(i)) return i;
  }
  throw Error("cannot use {}: forward has no output '{}'; specify one of: {}", name, wanted, list);
}

/// \throws Error always: it must be specified which of several outputs is the logits
/// \param list names them
/// \param last the position of one of them
/// \param options the type whose `output` specifies it
[[noreturn]] inline void refuse_several_outputs(const std::string& name, const std::string& list,
                                                std::size_t last, const char* options) {
  throw Error(
      "cannot use {}: forward returns several tensors that could be the logits: {}; specify one, for example "
      "--output {} ({}::output)",
      name, list, last, options);
}

}  // namespace refine::backbones::detail
