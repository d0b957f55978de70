#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include <refine/core/error.hpp>

namespace refine::formats {

/// Something in a file for which refine does not run it or does not use it.
struct Objection {
  enum class Kind {
    harmful,      ///< not known to be arithmetic, and could do anything when it runs
    unknown,      ///< an operator of PyTorch that refine does not know
    library,      ///< an operator of another library, which is not loaded here
    quantized,    ///< computes with quantised numbers, through which no gradient passes
    unsupported,  ///< harmless, and not in a form that refine reads
  };
  Kind kind = Kind::harmful;
  std::string text = {};  ///< one clause, which names what it is about

  bool operator==(const Objection&) const = default;
};

/// A file that names a way to run programs, which Python would run while it loads the file.
struct ProgramError : Error {
  using Error::Error;
};

}  // namespace refine::formats

namespace refine::formats::detail {

/// A kind of tensor that refine does not compute with.
struct UnreadNumbers {
  std::string_view what;    ///< with its article
  std::string_view advice;  ///< how to save what refine reads
  bool quantized = false;
};

inline constexpr std::string_view save_as_float =
    "save the weights as float32: {name: tensor.float() for name, tensor in state_dict.items()}";

/// Returns the kind of tensor that a name stands for: of a type of PyTorch or of safetensors, or of the function
/// that rebuilds it ("torch.float8_e4m3fn", "F8_E4M3", "torch._utils._rebuild_qtensor").
inline UnreadNumbers unread_numbers(std::string_view name) {
  const auto has = [&](auto... words) { return ((name.find(words) != std::string_view::npos) || ...); };
  if (has("_rebuild_qtensor", "qint", "QInt", "QUInt", "quint")) {
    return {"a quantised tensor, through which no gradient passes",
            "save the weights of the float model, before it is quantised", true};
  }
  if (has("float8", "Float8", "F8_")) return {"a tensor of 8-bit floating-point numbers", save_as_float};
  if (has("float4", "Float4", "F4", "F6_"))
    return {"a tensor of 4-bit floating-point numbers", save_as_float};
  if (has("omplex", "C64", "C32", "C128")) {
    return {"a tensor of complex numbers", "save its real and imaginary parts: torch.view_as_real(tensor)"};
  }
  if (has("sparse")) return {"a sparse tensor", "save it dense: tensor.to_dense()"};
  if (has("uint16", "uint32", "uint64", "U16", "U32", "U64")) {
    return {"a tensor of unsigned integers", "save it as int64: tensor.long()"};
  }
  return {"a tensor of another kind",
          "save plain tensors, as model.state_dict() of the float model has them"};
}

/// The types of safetensors that are not read.
inline bool is_unread_type(std::string_view safetensors_type) {
  constexpr auto types =
      std::to_array<std::string_view>({"F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
                                       "F6_E2M3", "F6_E3M2", "F4", "C64", "U16", "U32", "U64"});
  return std::ranges::find(types, safetensors_type) != types.end();
}

}  // namespace refine::formats::detail
