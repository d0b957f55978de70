#pragma once

#include <torch/csrc/jit/frontend/tree.h>
#include <torch/csrc/jit/frontend/tree_views.h>

#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/formats/detail/objection.hpp>

namespace refine::formats::detail::script {

/// What the source of an archive says about a class.
struct ClassOutline {
  bool is_module = false;                                      ///< derived from `Module`
  bool is_tuple = false;                                       ///< derived from `NamedTuple`
  std::map<std::string, torch::jit::TreeRef> attributes = {};  ///< name → type
};

/// Definitions, and which others each needs. LibTorch compiles by recursion: first what a definition needs.
class DefinitionGraph {
 public:
  /// Returns the number of a definition.
  std::size_t find(const std::string& name);

  /// Counts the levels of a definition's own tree, which LibTorch walks by recursion, too.
  void add_levels(std::size_t node, std::size_t levels) { nodes_[node].levels += levels; }

  void add_need(std::size_t from, std::size_t to) { nodes_[from].needs.push_back(to); }

  /// Adds a need of a class: a method, which is compiled with it.
  void add_method(std::size_t whole, std::size_t method) {
    add_need(whole, method);
    nodes_[whole].methods.push_back(method);
  }

  /// Returns the levels of the deepest chain. Definitions that need each other count as one after the other, and so do
  /// all methods of classes among them: each may be called through a field of another class.
  std::size_t deepest_chain() const;

 private:
  struct Node {
    std::size_t levels = 0;
    std::vector<std::size_t> needs = {}, methods = {};
  };
  std::map<std::string, std::size_t> numbers_;
  std::vector<Node> nodes_;
};

/// Returns the objection to an operator.
/// \param name the operator with its namespace: "aten::save"
/// \param verb how the code refers to it: "names"
/// \param path the source file; may be empty
Objection objection_to(const std::string& name, std::string_view verb, std::string_view path);

/// Checks the source of an archive and reports whatever is not arithmetic on tensors. What is not
/// known to be harmless is reported: an undefined name, a callee that may be anything, syntax that
/// TorchScript's own writer does not produce.
class CodeCheck {
 public:
  using Report = std::function<void(Objection)>;  ///< receives each objection

  /// Checks all source files.
  /// \param code source files by path
  /// \param report receives each objection
  CodeCheck(const std::map<std::string, std::string>& code, Report report);

  /// Returns the classes that the source defines, by qualified name.
  const std::map<std::string, ClassOutline>& classes() const { return classes_; }

  /// Returns every operator that the source names.
  const std::set<std::string>& operators() const { return operators_; }

  /// Returns true if the expression is a type whose values are harmless.
  bool is_type(const torch::jit::TreeRef& tree) const;

 private:
  using TreeRef = torch::jit::TreeRef;
  using Names = std::set<std::string, std::less<>>;
  using Methods = std::map<std::string, std::size_t, std::less<>>;  // name → its number in the graph
  /// The names of a function → whether they may be called. A name stands for a function or class of
  /// the archive, or for a value.
  using Scope = std::map<std::string, bool>;

  inline static const Names plain_types = {"Tensor",  "int",    "float",  "bool",   "str",
                                           "complex", "number", "Scalar", "Device", "Any"};
  inline static const Names containers = {"List", "Dict", "Optional", "Tuple", "Union"};
  inline static const Names callable = {
      "AssertionError", "abs",       "all",   "any",    "bool", "complex", "dict",  "divmod",
      "enumerate",      "float",     "int",   "len",    "list", "max",     "min",   "pow",
      "range",          "rangelist", "round", "sorted", "str",  "sum",     "tuple", "zip"};
  inline static const Names reserved = {
      "torch",      "ops",     "CONSTANTS", "__torch__", "annotate",  "unchecked_cast", "uninitialized",
      "isinstance", "getattr", "hasattr",   "fork",      "awaitable", "print"};

  static std::string qualifier(std::string_view path);

  void for_each_definition(const std::function<void(const TreeRef&)>& check);

  void refuse(std::string_view what) const;

  void add_operator(const std::string& name);

  // --- definitions ---------------------------------------------------------------------------------------

  void collect(const TreeRef& tree);

  /// True for `__annotations__["0"]`, which declares names that are not identifiers.
  static bool is_annotation(const torch::jit::Expr& target);

  // --- classes -------------------------------------------------------------------------------------------

  void check_class(const TreeRef& tree);

  void check_field(const std::string& name, const torch::jit::Assign& assign);

  void check_field_type(const std::string& name, const TreeRef& tree);

  static bool is_literal(const TreeRef& tree);

  // --- functions -----------------------------------------------------------------------------------------

  void check_function(const TreeRef& tree);

  /// Adds a name to the scope. It may be called if it is bound only to functions and classes of the
  /// archive.
  void bind(Scope& scope, const std::string& name, bool may_be_called);

  void bind_target(Scope& scope, const TreeRef& target, bool may_be_called);

  void bind_all(Scope& scope, const torch::jit::List<torch::jit::Stmt>& body);

  bool is_defined(const std::string& name) const {
    return functions_.contains(name) || classes_.contains(name);
  }

  void check_statements(const torch::jit::List<torch::jit::Stmt>& body, const Scope& scope);

  void check_statement(const torch::jit::Stmt& tree, const Scope& scope);

  void check_type(const TreeRef& tree);

  // --- chains of definitions -----------------------------------------------------------------------------

  /// Requires that no chain of definitions, of which each needs the next to be compiled, is too deep.
  void check_chains();

  /// Adds the functions and classes that a definition names, but for its own class, which is being compiled.
  /// \param own_class number of its class, of a method
  /// \param methods of its class
  void add_needs(DefinitionGraph& graph, std::size_t from, const TreeRef& tree, std::size_t own_class,
                 const Methods& methods) const;

  // --- expressions ---------------------------------------------------------------------------------------

  void check_expression(const TreeRef& tree, const Scope& scope);

  static std::string root(const std::string& dotted) { return dotted.substr(0, dotted.find('.')); }

  void check_selection(const TreeRef& tree, const Scope& scope);

  void check_call(const TreeRef& tree, const Scope& scope);

  /// Checks `value.name()`, which calls a method of the archive or an operator, depending on the
  /// value. If an operator has this name it must be permitted: a method of the archive could hide
  /// it.
  void check_method(const std::string& name);

  /// Checks a call that takes a type or a name as an argument.
  /// \return true if it was such a call
  bool check_special_call(const std::string& name, const torch::jit::Apply& apply, const Scope& scope);

  /// Returns true if LibTorch verifies every value of the type before using it. It does not verify
  /// objects and tuples, and reads out of bounds if the value has another type.
  bool is_scalar(const TreeRef& tree) const;

  Report report_;
  std::string path_;
  std::vector<std::pair<std::string, std::vector<TreeRef>>> files_;
  std::map<std::string, ClassOutline> classes_;
  std::set<std::string> functions_, methods_, operators_;
};

}  // namespace refine::formats::detail::script

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/script_code.ipp>
#endif
