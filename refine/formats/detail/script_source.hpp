#pragma once

#include <torch/csrc/jit/frontend/tree.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace refine::formats::detail::script {

/// LibTorch's parser and compiler go down a tree by recursion. So deep is what they get; the deepest that
/// TorchScript writes of a classifier is some ten.
inline constexpr std::size_t deepest = 200;
inline constexpr std::size_t most_source_bytes = std::size_t{16} << 20;

/// The first line of what LibTorch says, without where in LibTorch it was said.
inline std::string first_line(std::string_view what) {
  return std::string(what.substr(0, what.find('\n')));
}

/// The classes and functions of a file under code/, as LibTorch's importer reads them; nothing is compiled.
/// \throws std::exception where it can't be parsed
std::vector<torch::jit::TreeRef> definitions(const std::string& text, const std::string& name);

/// A type that stands in a string, such as "List[int]". \throws std::exception where it can't be parsed
torch::jit::TreeRef type_of(const std::string& text);

/// `a.b.c` of names only; empty where the expression is something else.
std::string dotted(const torch::jit::TreeRef& tree);

/// What stands in the brackets of `a[b, c]`.
inline const torch::jit::TreeList& arguments_of(const torch::jit::TreeRef& subscript) {
  return subscript->trees().at(1)->trees();
}

/// A type as text, without spaces; empty where it is none.
std::string spelled(const torch::jit::TreeRef& tree);

}  // namespace refine::formats::detail::script

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/script_code.ipp>
#endif
