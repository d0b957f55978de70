#pragma once

#include <torch/csrc/jit/frontend/tree.h>
#include <torch/csrc/jit/frontend/tree_views.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/formats/detail/objection.hpp>

namespace refine::formats::detail::script {

/// A class that the archive defines.
struct ClassOutline {
  bool is_module = false, is_tuple = false;
  std::map<std::string, torch::jit::TreeRef> attributes = {};  // name → type
};

/// The objection to an operator that may not run. \param how the code comes to it, \param path of the source
Objection objection_to(const std::string& name, std::string_view how, std::string_view path);

/// Goes over the source of an archive, and says what of it is no arithmetic. What it knows not to be harmless
/// it objects to: a name that is bound nowhere, a callee that may be anything, a syntax that TorchScript's
/// own writer does not use.
class CodeCheck {
 public:
  using Object = std::function<void(Objection)>;

  /// \param object hears of each objection
  CodeCheck(const std::map<std::string, std::string>& code, Object object);

  const std::map<std::string, ClassOutline>& classes() const { return classes_; }
  const std::set<std::string>& operators() const { return operators_; }

  /// Whether it is a type of values that can do no harm.
  bool is_type(const torch::jit::TreeRef& tree) const;

 private:
  using TreeRef = torch::jit::TreeRef;
  using Names = std::set<std::string, std::less<>>;
  /// What a name in a function stands for: an archive's function or class, or a value.
  using Scope = std::map<std::string, bool>;  // → whether it may be called

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

  void each(const std::function<void(const TreeRef&)>& look);

  void refuse(std::string_view what) const;

  void name_operator(const std::string& name);

  // --- what there is -------------------------------------------------------------------------------------

  void outline(const TreeRef& tree);

  /// `__annotations__["0"]`, for names that are no identifiers.
  static bool is_annotation(const torch::jit::Expr& target);

  // --- classes -------------------------------------------------------------------------------------------

  void body_of(const TreeRef& tree);

  void field(const std::string& name, const torch::jit::Assign& assign);

  void field_type(const std::string& name, const TreeRef& tree);

  static bool is_literal(const TreeRef& tree);

  // --- functions -----------------------------------------------------------------------------------------

  void function(const TreeRef& tree);

  /// A name may be called when it is never bound to anything but the archive's own functions.
  void bind(Scope& scope, const std::string& name, bool may_be_called);

  void bind_target(Scope& scope, const TreeRef& target, bool may_be_called);

  void bind_all(Scope& scope, const torch::jit::List<torch::jit::Stmt>& body);

  bool is_ours(const std::string& name) const { return functions_.contains(name) || classes_.contains(name); }

  void statements(const torch::jit::List<torch::jit::Stmt>& body, const Scope& scope);

  void statement(const torch::jit::Stmt& tree, const Scope& scope);

  void type(const TreeRef& tree);

  // --- expressions ---------------------------------------------------------------------------------------

  void expression(const TreeRef& tree, const Scope& scope);

  static std::string root(const std::string& dotted) { return dotted.substr(0, dotted.find('.')); }

  void selection(const TreeRef& tree, const Scope& scope);

  void call(const TreeRef& tree, const Scope& scope);

  /// `value.name()`: the archive's own method, or an operator, whichever the value has. A method that is
  /// called as an operator is could hide it.
  void method(const std::string& name);

  /// What takes a type or a name among its arguments. \returns whether it was one
  bool special(const std::string& name, const torch::jit::Apply& apply, const Scope& scope);

  /// Whether LibTorch looks at every such value before it uses it. Of an object or a tuple it believes the
  /// type, and reads beyond its end where there is another.
  bool is_scalar(const TreeRef& tree) const;

  Object object_;
  std::string path_;
  std::vector<std::pair<std::string, std::vector<TreeRef>>> files_;
  std::map<std::string, ClassOutline> classes_;
  std::set<std::string> functions_, methods_, operators_;
};

}  // namespace refine::formats::detail::script

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/script_code.ipp>
#endif
