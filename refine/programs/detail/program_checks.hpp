#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/operator_name.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>

// What `Scripted` and `ExportedProgram` ask of a program's operators and outputs.
namespace refine::backbones::detail {

/// Returns n images whose values rise from 0 to 1.
inline at::Tensor ramp(std::int64_t n, const ImageShape& shape) {
  return at::linspace(0, 1, n * shape.channels * shape.height * shape.width)
      .view({n, shape.channels, shape.height, shape.width})
      .contiguous(at::MemoryFormat::ChannelsLast);
}

/// Operators of LibTorch that read or write beyond their tensors, or end the process by a division by zero, unless
/// `check_arguments` sees their arguments first.
/// In the overload without a name.
inline constexpr const char* checked_operators[] = {
    "aten::scaled_dot_product_attention",   "aten::_native_batch_norm_legit_no_training",
    "aten::_upsample_bilinear2d_aa",        "aten::_upsample_bicubic2d_aa",
    "aten::_upsample_lanczos2d_aa",         "aten::_native_multi_head_attention",
    "aten::_transformer_encoder_layer_fwd",
};

/// True for these operators.
inline bool is_checked(const c10::OperatorName& op) {
  if (!op.overload_name.empty()) return false;
  for (const char* name : checked_operators) {
    if (op.name == name) return true;
  }
  return false;
}

/// Checks the arguments of such an operator.
/// \param arguments in the order of its schema
/// \throws Error if they do not fit each other
inline void check_arguments(const c10::OperatorName& op, at::ArrayRef<c10::IValue> arguments) {
  if (op.name == "aten::scaled_dot_product_attention") {
    const auto keys = arguments[1].toTensor().sizes(), values = arguments[2].toTensor().sizes();
    if (keys.size() >= 2 && keys.size() == values.size() &&
        keys.slice(0, keys.size() - 1) == values.slice(0, values.size() - 1))
      return;
    throw Error("{}: keys and values must have the same sizes except for the last one", op.name);
  }
  const auto sizes = arguments[0].toTensor().sizes();
  if (op.name == "aten::_native_batch_norm_legit_no_training") {
    for (std::size_t i = 1; i < 5; ++i) {  // weight, bias, mean, variance
      if (arguments[i].isNone() || !arguments[i].toTensor().defined()) continue;
      if (sizes.size() < 2 || arguments[i].toTensor().sizes() != sizes.slice(1, 1))
        throw Error("{}: weights and statistics must have one number for each channel", op.name);
    }
    return;
  }
  const bool is_layer = op.name == "aten::_transformer_encoder_layer_fwd";
  if (is_layer || op.name == "aten::_native_multi_head_attention") {
    if (arguments[is_layer ? 2 : 4].toInt() < 1) throw Error("{}: needs a head or more", op.name);
    return;
  }
  const auto wanted = arguments[1].toIntVector();
  for (std::size_t d = 0; d < 2; ++d) {
    if (arguments[3 + d].isNone() || sizes.size() != 4 || wanted.size() != 2) continue;
    const double scale = arguments[3 + d].toDouble(),
                 extent = scale * static_cast<double>(sizes[2 + d]) - static_cast<double>(wanted[d]);
    if (!(std::abs(extent) < 1)) throw Error("{}: its scales must fit its sizes, got {}", op.name, scale);
  }
}

/// Operators that may return an operand, or a view of it, without declaring it in their schemas: where there is nothing
/// to do (`dropout` in evaluation mode, `to_dense` of a dense tensor).
inline constexpr const char* hidden_aliases[] = {
    "aten::_cast_Byte",
    "aten::_cast_Char",
    "aten::_cast_Double",
    "aten::_cast_Float",
    "aten::_cast_Half",
    "aten::_cast_Int",
    "aten::_cast_Long",
    "aten::_cast_Short",
    "aten::_unsafe_view",
    "aten::alpha_dropout",
    "aten::atleast_1d",
    "aten::atleast_2d",
    "aten::atleast_3d",
    "aten::broadcast_tensors",
    "aten::cartesian_prod",
    "aten::conj_physical",
    "aten::constant_pad_nd",
    "aten::dropout",
    "aten::einsum",
    "aten::feature_alpha_dropout",
    "aten::feature_dropout",
    "aten::flatten_dense_tensors",
    "aten::histogramdd",
    "aten::lift",
    "aten::meshgrid",
    "aten::pad",
    "aten::sum_to_size",
    "aten::to_dense",
    "aten::type_as",
    "aten::unflatten_dense_tensors",
    "aten::unsafe_chunk",
    "aten::unsafe_split",
    "aten::unsafe_split_with_sizes",
};

/// True for these operators.
/// \param op its name without the overload: "aten::dropout"
inline bool hides_alias(std::string_view op) {
  return std::ranges::find(hidden_aliases, op) != std::end(hidden_aliases);
}

/// True if an operator may write to an operand that its schema declares as read-only: statistics in training mode, and
/// `cov` of a single observation.
/// \param op its name without the overload
/// \param parameter the operand's name in the schema
/// \param is_training the mode of a normalization
inline bool hides_write(std::string_view op, std::string_view parameter, bool is_training) {
  if (op == "aten::cov") return parameter == "self";
  return is_training && (parameter == "running_mean" || parameter == "running_var");
}

/// True if a tensor is images×classes, with at least 2 classes.
inline bool is_logits(const at::Tensor& output, std::int64_t images) {
  return output.dim() == 2 && output.size(0) == images && output.size(1) >= 2 && output.is_floating_point();
}

/// True if the first answers to several images are those to some of them alone, as of a network in evaluation mode.
inline bool have_same_rows(const at::Tensor& some, const at::Tensor& all) {
  const at::Tensor rows = all.narrow(0, 0, some.size(0));
  return at::allclose(some, rows, 1e-2, 1e-3 * rows.nan_to_num(0, 0, 0).abs().max().item<double>(),
                      /*equal_nan=*/true);
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
