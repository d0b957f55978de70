#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>

namespace refine::formats {

/// Whether a file that is a program may run without passing the check.
enum class Trust {
  checked,  ///< everything that the file names must be arithmetic on tensors
  blind,    ///< the file may run anything with all rights of this process
};

/// A reason why refine does not run a program.
struct Objection {
  /// What kind of reason it is.
  enum class Kind {
    harmful,      ///< not known to be arithmetic; could do anything when it runs
    unknown,      ///< an operator of PyTorch that refine does not know
    library,      ///< an operator of another library, which is not loaded
    quantized,    ///< computes with quantised numbers, through which no gradient passes
    unsupported,  ///< harmless, but in a form that refine does not read
  };

  Kind kind = Kind::harmful;  ///< the kind
  std::string text = {};  ///< one clause that names the cause: "its code names the operator aten::save …"

  /// Returns true if kind and text are equal.
  bool operator==(const Objection&) const = default;
};

}  // namespace refine::formats

namespace refine::formats::detail {

/// Returns true if one of the objections is of that kind.
inline bool has_objection(const std::vector<Objection>& objections, Objection::Kind kind) {
  return std::ranges::find(objections, kind, &Objection::kind) != objections.end();
}

/// Adds an objection, unless it is there or there are many: one is enough to refuse.
inline void add_objection(std::vector<Objection>& objections, Objection objection) {
  constexpr std::size_t max_objections = 1000;
  if (objections.size() < max_objections && std::ranges::find(objections, objection) == objections.end()) {
    objections.push_back(std::move(objection));
  }
}

/// Refuses a program for its first objection of a kind.
/// \param kind of one of the objections
/// \param advice what to do about it
/// \throws Error always
[[noreturn]] inline void refuse_program(const std::filesystem::path& path,
                                        const std::vector<Objection>& objections, Objection::Kind kind,
                                        std::string_view advice) {
  std::string more;
  if (objections.size() > 1) more = fmt::format(", and {} more", objections.size() - 1);
  throw Error("cannot load {}: {}{}; {}", path.string(),
              std::ranges::find(objections, kind, &Objection::kind)->text, more, advice);
}

/// A kind of tensor that refine does not compute with.
struct UnsupportedTensor {
  std::string_view what;    ///< the kind, with its article
  std::string_view advice;  ///< how to save a tensor that refine reads
  bool quantized = false;   ///< true for quantised tensors
};

/// The advice for dtypes that convert to float32.
inline constexpr std::string_view save_as_float =
    "save the weights as float32: {name: tensor.float() for name, tensor in state_dict.items()}";

/// Returns the kind of tensor that a name stands for.
/// \param name a dtype of PyTorch ("torch.float8_e4m3fn") or of safetensors ("F8_E4M3"), a storage
///        class, or the function that rebuilds the tensor ("torch._utils._rebuild_qtensor")
/// \return the kind, and how to save the tensor instead
inline UnsupportedTensor describe_unsupported_tensor(std::string_view name) {
  const auto has = [&](auto... words) { return ((name.find(words) != std::string_view::npos) || ...); };
  if (has("_rebuild_qtensor", "qint", "QInt", "QUInt", "quint")) {
    return {"a quantised tensor, through which no gradient passes",
            "save the weights of the float model, before it is quantised", true};
  }
  if (has("float8", "Float8", "F8_")) return {"a tensor of 8-bit floating-point numbers", save_as_float};
  if (has("float4", "Float4", "F4", "F6_")) {
    return {"a tensor of 4-bit or 6-bit floating-point numbers", save_as_float};
  }
  if (has("omplex", "C64", "C32", "C128")) {
    return {"a tensor of complex numbers", "save its real and imaginary parts: torch.view_as_real(tensor)"};
  }
  if (has("sparse")) return {"a sparse tensor", "save it dense: tensor.to_dense()"};
  if (has("uint16", "uint32", "uint64", "U16", "U32", "U64")) {
    return {"a tensor of unsigned integers", "save it as int64: tensor.long()"};
  }
  return {"a tensor of another kind", "save plain tensors, as in model.state_dict() of the float model"};
}

/// Returns true if the safetensors format has this dtype but refine does not compute with it.
inline bool is_unsupported_dtype(std::string_view safetensors_dtype) {
  constexpr auto types =
      std::to_array<std::string_view>({"F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
                                       "F6_E2M3", "F6_E3M2", "F4", "C64", "U16", "U32", "U64"});
  return std::ranges::find(types, safetensors_dtype) != types.end();
}

}  // namespace refine::formats::detail
