#pragma once

#include <torch/csrc/jit/frontend/tree.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace refine::formats::detail::script {

/// Deepest nesting that is passed to LibTorch, whose parser and compiler recurse over the tree. The
/// source of a TorchScript classifier has about ten levels.
inline constexpr std::size_t max_depth = 200;

/// Largest size of all source files together.
inline constexpr std::size_t max_source_bytes = std::size_t{2} << 20;

/// Returns the first line of a LibTorch message; the rest is its place in LibTorch's sources.
inline std::string first_line(std::string_view what) {
  return std::string(what.substr(0, what.find('\n')));
}

/// Parses the classes and functions of a source file as LibTorch's importer does. Nothing is
/// compiled.
/// \param text the source
/// \param name its path, for messages
/// \return a tree for each class and function
/// \throws std::exception if the source cannot be parsed
std::vector<torch::jit::TreeRef> parse_definitions(const std::string& text, const std::string& name);

/// Parses a type in a string, such as "List[int]".
/// \throws std::exception if it cannot be parsed
torch::jit::TreeRef parse_type(const std::string& text);

/// Returns `a.b.c` for an expression of names only, else an empty string.
std::string dotted_name(const torch::jit::TreeRef& tree);

/// Returns the expressions in the brackets of `a[b, c]`.
inline const torch::jit::TreeList& subscript_arguments(const torch::jit::TreeRef& subscript) {
  return subscript->trees().at(1)->trees();
}

/// Returns a type as text without spaces, or an empty string if the expression is not a type.
std::string type_text(const torch::jit::TreeRef& tree);

}  // namespace refine::formats::detail::script

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/script_code.ipp>
#endif
