#pragma once

#include <refine/formats/detail/script_code.hpp>
#include <refine/formats/detail/script_source.hpp>

#include <ATen/core/symbol.h>
#include <fmt/core.h>
#include <torch/csrc/jit/frontend/builtin_functions.h>
#include <torch/csrc/jit/frontend/lexer.h>
#include <torch/csrc/jit/frontend/parser.h>
#include <torch/csrc/jit/frontend/source_range.h>
#include <torch/csrc/jit/frontend/tree_views.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <memory>
#include <numeric>
#include <stdexcept>

#include <refine/core/config.hpp>
#include <refine/formats/detail/operators.hpp>

namespace refine::formats::detail::script {

/// The lexer goes over comments and empty lines by recursion.
/// \throws std::runtime_error where there are too many in a row, and at control characters
REFINE_INLINE void require_dense(std::string_view text) {
  std::size_t idle = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
    begin += line.size() + 1;
    const std::size_t first = line.find_first_not_of(" \t\\");
    idle = first == std::string_view::npos || line[first] == '#' ? idle + 1 : 0;
    if (idle > deepest) throw std::runtime_error("too many lines without code");
  }
  const auto is_control = [](unsigned char c) { return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f; };
  if (std::ranges::any_of(text, is_control)) throw std::runtime_error("a control character");
}

/// Adds up what may lie in each other, of each level of brackets: a chain such as `a.b.c`, `a + b + c` or
/// `not not a` is as deep as it is long; a comma ends it.
class DepthGauge {
 public:
  void take(const torch::jit::Token& token);

 private:
  static constexpr std::size_t longest_name = 1000;
  std::vector<std::size_t> chains_ = {0};
  std::size_t indents_ = 0, branches_ = 0;
};

REFINE_INLINE void DepthGauge::take(const torch::jit::Token& token) {
  using namespace torch::jit;
  const int kind = token.kind;
  switch (kind) {
    case '(':
    case '[':
    case '{':
      ++chains_.back();
      chains_.push_back(0);
      break;
    case ')':
    case ']':
    case '}':
      if (chains_.size() == 1) throw std::runtime_error("a bracket that nothing opened");
      chains_.pop_back();
      break;
    case ',':
      chains_.back() = 0;
      break;
    case TK_NEWLINE:
      chains_.assign(1, 0);
      break;
    case TK_INDENT:
      chains_.assign(1, 0);
      ++indents_;
      break;
    case TK_DEDENT:
      indents_ -= std::min<std::size_t>(indents_, 1);
      break;
    case TK_DEF:
      branches_ = 0;
      break;
    case TK_ELIF:
      ++branches_;
      break;
    case TK_IDENT:  // LibTorch matches names with std::regex, which goes over a match by recursion
      if (token.range.size() > longest_name) throw std::runtime_error("too long a name");
      break;
    case TK_NUMBER:
    case TK_STRINGLITERAL:
      break;
    default:
      ++chains_.back();
  }
  if (chains_.size() + indents_ + branches_ + std::reduce(chains_.begin(), chains_.end()) > deepest) {
    throw std::runtime_error("it is nested too deep");
  }
}

/// A source that can be parsed without end of stack. \throws std::exception where it can't
REFINE_INLINE std::shared_ptr<torch::jit::Source> shallow_source(const std::string& text,
                                                                 const std::string& name) {
  require_dense(text);
  auto source = std::make_shared<torch::jit::Source>(text, name, 0);
  DepthGauge gauge;
  for (torch::jit::Lexer lexer(source); lexer.cur().kind != torch::jit::TK_EOF;) gauge.take(lexer.next());
  return source;
}

REFINE_INLINE std::vector<torch::jit::TreeRef> definitions(const std::string& text, const std::string& name) {
  using namespace torch::jit;
  Parser parser(shallow_source(text, name));
  Lexer& lexer = parser.lexer();
  if (lexer.cur().kind == TK_IDENT && lexer.cur().text() == "op_version_set") {  // of old
    while (lexer.next().kind != TK_NEWLINE) {
      if (lexer.cur().kind == TK_EOF) break;
    }
  }
  std::vector<TreeRef> result;
  while (lexer.cur().kind != TK_EOF) {
    if (lexer.nextIf(TK_IMPORT)) {  // has no effect
      while (lexer.cur().kind != TK_EOF && lexer.next().kind != TK_NEWLINE) continue;
    } else if (lexer.cur().kind == TK_CLASS_DEF) {
      result.push_back(parser.parseClass());
    } else if (lexer.cur().kind == TK_DEF) {
      result.push_back(parser.parseFunction(/*is_method=*/false));
    } else {
      throw std::runtime_error("'" + lexer.cur().text() + "' where a class or a function is due");
    }
  }
  return result;
}

REFINE_INLINE torch::jit::TreeRef type_of(const std::string& text) {
  torch::jit::Parser parser(shallow_source(text, "type"));
  const torch::jit::TreeRef type = parser.parseExp();
  return type;
}

REFINE_INLINE std::string dotted(const torch::jit::TreeRef& tree) {
  using namespace torch::jit;
  if (tree->kind() == TK_VAR) return Var(tree).name().name();
  if (tree->kind() != '.') return {};
  const std::string base = dotted(Select(tree).value());
  return base.empty() ? base : base + "." + Select(tree).selector().name();
}

REFINE_INLINE std::string spelled(const torch::jit::TreeRef& tree) {
  using namespace torch::jit;
  if (tree->kind() == TK_NONE || tree->kind() == TK_NONE_TYPE) return "NoneType";
  if (tree->kind() == TK_TUPLE_LITERAL && TupleLiteral(tree).inputs().empty()) return "()";
  if (tree->kind() != TK_SUBSCRIPT) return dotted(tree);
  std::string text = spelled(Subscript(tree).value()) + "[";
  for (const TreeRef& argument : arguments_of(tree)) text += spelled(argument) + ",";
  text.back() = ']';
  return text;
}

REFINE_INLINE Objection objection_to(const std::string& name, std::string_view how, std::string_view path) {
  using operators::Nature;
  const Nature nature = operators::nature_of(name);
  const std::string_view why = operators::reason(name);
  std::string text = fmt::format("its code {} the operator {}", how, name);
  if (!path.empty()) text += fmt::format(" (in {})", path);
  return {nature == Nature::quantized    ? Objection::Kind::quantized
          : nature == Nature::of_library ? Objection::Kind::library
          : nature == Nature::unknown    ? Objection::Kind::unknown
                                         : Objection::Kind::harmful,
          text + ", " + std::string(why.empty() ? "which is no tensor arithmetic" : why)};
}

REFINE_INLINE CodeCheck::CodeCheck(const std::map<std::string, std::string>& code, Object object)
    : object_(std::move(object)) {
  for (const auto& [path, text] : code) {
    try {
      files_.emplace_back(path, definitions(text, path));
    } catch (const std::exception& error) {
      object_({Objection::Kind::harmful,
               fmt::format("its code can't be read (in {}: {})", path, first_line(error.what()))});
    }
  }
  each([&](const TreeRef& tree) { outline(tree); });
  each([&](const TreeRef& tree) { tree->kind() == torch::jit::TK_DEF ? function(tree) : body_of(tree); });
}

REFINE_INLINE bool CodeCheck::is_type(const torch::jit::TreeRef& tree) const {
  using namespace torch::jit;
  switch (tree->kind()) {
    case TK_NONE:
    case TK_NONE_TYPE:
      return true;
    case TK_VAR:
    case '.':
      return plain_types.contains(dotted(tree)) || classes_.contains(dotted(tree));
    case TK_TUPLE_LITERAL:
      return TupleLiteral(tree).inputs().empty();
    case TK_SUBSCRIPT:
      return containers.contains(dotted(Subscript(tree).value())) && !arguments_of(tree).empty() &&
             std::ranges::all_of(arguments_of(tree), [&](const TreeRef& each) { return is_type(each); });
    default:
      return false;
  }
}

REFINE_INLINE std::string CodeCheck::qualifier(std::string_view path) {
  constexpr std::string_view folder = "code/", ending = ".py";
  std::string name(path.substr(folder.size(), path.size() - folder.size() - ending.size()));
  std::ranges::replace(name, '/', '.');
  return name;
}

REFINE_INLINE void CodeCheck::each(const std::function<void(const TreeRef&)>& look) {
  for (const auto& [path, trees] : files_) {
    path_ = path;
    try {
      std::ranges::for_each(trees, look);
    } catch (const std::exception& error) {  // a tree of another shape than the grammar's
      refuse(fmt::format("can't be read: {}", first_line(error.what())));
    }
  }
}

REFINE_INLINE void CodeCheck::refuse(std::string_view what) const {
  // Only PyTorch's own quantised modules have such classes; the rest of what is said of them is beside the point.
  const bool quantized = what.find("torch.classes.quantized.") != std::string_view::npos ||
                         what.find("__torch__.torch.classes.quantized") != std::string_view::npos;
  object_({quantized ? Objection::Kind::quantized : Objection::Kind::harmful,
           fmt::format("its code {} (in {})", what, path_)});
}

REFINE_INLINE void CodeCheck::name_operator(const std::string& name) {
  operators_.insert(name);
  if (!operators::permits(name)) object_(objection_to(name, "names", path_));
}

REFINE_INLINE void CodeCheck::outline(const TreeRef& tree) {
  using namespace torch::jit;
  const bool is_function = tree->kind() == TK_DEF;
  const std::string name =
      qualifier(path_) + "." + (is_function ? Def(tree).name().name() : ClassDef(tree).name().name());
  if (is_ours(name)) refuse(fmt::format("defines {} twice", name));
  for (const std::string_view special : {"torch.classes", "torch.nn.quantized", "torch.ao.nn.quantized"}) {
    if (name.find(special) != std::string::npos) refuse(fmt::format("defines {}, which is built in", name));
  }
  if (is_function) {
    functions_.insert(name);
    return;
  }
  const ClassDef definition(tree);
  ClassOutline result;
  if (definition.superclass().present()) {
    const std::string base = dotted(definition.superclass().get());
    result.is_module = base == "Module";
    result.is_tuple = base == "NamedTuple";
  }
  for (const Stmt& statement : definition.body()) {
    if (statement.kind() == TK_DEF) methods_.insert(Def(statement).name().name());
    if (statement.kind() != TK_ASSIGN) continue;
    const Assign assign(statement);
    if (assign.lhs_list().size() != 1) continue;
    const Expr target = assign.lhs();
    if (target.kind() == TK_VAR && !assign.rhs().present() && assign.type().present()) {
      result.attributes.insert_or_assign(Var(target).name().name(), assign.type().get().tree());
    } else if (is_annotation(target) && assign.rhs().present()) {
      result.attributes.insert_or_assign(StringLiteral(Subscript(target).subscript_exprs()[0]).text(),
                                         assign.rhs().get().tree());
    }
  }
  classes_.insert_or_assign(name, std::move(result));
}

REFINE_INLINE bool CodeCheck::is_annotation(const torch::jit::Expr& target) {
  using namespace torch::jit;
  return target.kind() == TK_SUBSCRIPT && dotted(Subscript(target).value()) == "__annotations__" &&
         Subscript(target).subscript_exprs().size() == 1 &&
         Subscript(target).subscript_exprs()[0].kind() == TK_STRINGLITERAL;
}

REFINE_INLINE void CodeCheck::body_of(const TreeRef& tree) {
  using namespace torch::jit;
  const ClassDef definition(tree);
  const std::string name = definition.name().name();
  if (definition.superclass().present()) {
    const std::string base = dotted(definition.superclass().get());
    if (base != "Module" && base != "NamedTuple") {
      refuse(fmt::format("has a class {} derived from {}", name, base.empty() ? "an expression" : base));
    }
  }
  for (const Stmt& statement : definition.body()) {
    if (statement.kind() == TK_DEF) {
      const std::string method = Def(statement).name().name();
      if (method == "__setstate__" || method == "__getstate__") {
        refuse(fmt::format("has a method {}.{}, which runs while the file is loaded", name, method));
      }
      function(statement);
    } else if (statement.kind() == TK_ASSIGN) {
      field(name, Assign(statement));
    } else if (statement.kind() != TK_PASS) {
      refuse(fmt::format("has a class {} with a statement that no class has", name));
    }
  }
}

REFINE_INLINE void CodeCheck::field(const std::string& name, const torch::jit::Assign& assign) {
  using namespace torch::jit;
  const auto malformed = [&] { refuse(fmt::format("has a class {} with a malformed field", name)); };
  if (assign.lhs_list().size() != 1) return malformed();
  const Expr target = assign.lhs();
  if (is_annotation(target)) {
    if (!assign.rhs().present()) return malformed();
    return field_type(name, assign.rhs().get());
  }
  if (target.kind() != TK_VAR) return malformed();
  const bool is_list =
      Names{"__parameters__", "__buffers__", "__annotations__", "__forward_hooks__", "__forward_pre_hooks__"}
          .contains(Var(target).name().name());
  if (assign.rhs().present() && !is_literal(assign.rhs().get())) return malformed();
  if (is_list) return;
  if (!assign.type().present()) return malformed();
  if (!assign.rhs().present()) return field_type(name, assign.type().get());
  const Expr type = assign.type().get();  // Final[int] = 3: the value is worked out while the file is loaded
  if (type.kind() != TK_SUBSCRIPT || dotted(Subscript(type).value()) != "Final" ||
      Subscript(type).subscript_exprs().size() != 1) {
    return malformed();
  }
  field_type(name, Subscript(type).subscript_exprs()[0]);
}

REFINE_INLINE void CodeCheck::field_type(const std::string& name, const TreeRef& tree) {
  if (is_type(tree)) return;
  const std::string text = spelled(tree);
  refuse(fmt::format("has a class {} with a field of type {}", name, text.empty() ? "unknown" : text));
}

REFINE_INLINE bool CodeCheck::is_literal(const TreeRef& tree) {
  using namespace torch::jit;
  switch (tree->kind()) {
    case TK_CONST:
    case TK_STRINGLITERAL:
    case TK_TRUE:
    case TK_FALSE:
    case TK_NONE:
      return true;
    case TK_VAR:
      return dotted(tree) == "inf" || dotted(tree) == "nan";
    case TK_LIST:
    case TK_UNARY_MINUS:
    case TK_LIST_LITERAL:
    case TK_TUPLE_LITERAL:
    case TK_DICT_LITERAL:
      return std::ranges::all_of(tree->trees(), is_literal);
    case TK_APPLY: {  // annotate(List[int], [])
      const auto inputs = Apply(tree).inputs();
      return dotted(Apply(tree).callee()) == "annotate" && inputs.size() == 2 && is_literal(inputs[1]);
    }
    default:
      return false;
  }
}

REFINE_INLINE void CodeCheck::function(const TreeRef& tree) {
  using namespace torch::jit;
  const Def definition(tree);
  Scope scope;
  for (const Param& param : definition.decl().params()) {
    bind(scope, param.ident().name(), false);
    if (param.type().present()) type(param.type().get());
    if (param.defaultValue().present() && !is_literal(param.defaultValue().get())) {
      refuse(fmt::format("works out a default of {} while the file is loaded", definition.name().name()));
    }
  }
  if (definition.decl().return_type().present()) type(definition.decl().return_type().get());
  bind_all(scope, definition.statements());
  statements(definition.statements(), scope);
}

REFINE_INLINE void CodeCheck::bind(Scope& scope, const std::string& name, bool may_be_called) {
  if (reserved.contains(name)) refuse(fmt::format("gives the name {} a new meaning", name));
  const auto [at, is_new] = scope.emplace(name, may_be_called);
  at->second = at->second && may_be_called;
}

REFINE_INLINE void CodeCheck::bind_target(Scope& scope, const TreeRef& target, bool may_be_called) {
  using namespace torch::jit;
  if (target->kind() == TK_VAR) bind(scope, Var(target).name().name(), may_be_called);
  if (target->kind() == TK_TUPLE_LITERAL || target->kind() == TK_LIST_LITERAL || target->kind() == TK_LIST ||
      target->kind() == TK_STARRED) {
    for (const TreeRef& part : target->trees()) bind_target(scope, part, false);
  }
}

REFINE_INLINE void CodeCheck::bind_all(Scope& scope, const torch::jit::List<torch::jit::Stmt>& body) {
  using namespace torch::jit;
  for (const Stmt& statement : body) {
    switch (statement.kind()) {
      case TK_ASSIGN: {
        const Assign assign(statement);
        const bool ours = assign.rhs().present() && is_ours(dotted(assign.rhs().get()));
        for (const Expr& target : assign.lhs_list()) bind_target(scope, target, ours);
        break;
      }
      case TK_AUG_ASSIGN:
        bind_target(scope, AugAssign(statement).lhs(), false);
        break;
      case TK_FOR:
        for (const Expr& target : For(statement).targets()) bind_target(scope, target, false);
        bind_all(scope, For(statement).body());
        break;
      case TK_WHILE:
        bind_all(scope, While(statement).body());
        break;
      case TK_IF:
        bind_all(scope, If(statement).trueBranch());
        bind_all(scope, If(statement).falseBranch());
        break;
      case TK_WITH:
        for (const WithItem& item : With(statement).targets()) {
          if (item.var().present()) bind_target(scope, item.var().get(), false);
        }
        bind_all(scope, With(statement).body());
        break;
      default:
        break;
    }
  }
}

REFINE_INLINE void CodeCheck::statements(const torch::jit::List<torch::jit::Stmt>& body, const Scope& scope) {
  for (const auto& statement : body) this->statement(statement, scope);
}

REFINE_INLINE void CodeCheck::statement(const torch::jit::Stmt& tree, const Scope& scope) {
  using namespace torch::jit;
  const auto present = [&](const Maybe<Expr>& maybe) {
    if (maybe.present()) expression(maybe.get(), scope);
  };
  switch (tree.kind()) {
    case TK_PASS:
    case TK_BREAK:
    case TK_CONTINUE:
      return;
    case TK_ASSIGN: {
      const Assign assign(tree);
      for (const Expr& target : assign.lhs_list()) expression(target, scope);
      present(assign.rhs());
      if (assign.type().present()) type(assign.type().get());
      return;
    }
    case TK_AUG_ASSIGN:
      expression(AugAssign(tree).lhs(), scope);
      return expression(AugAssign(tree).rhs(), scope);
    case TK_RETURN:
      return expression(Return(tree).expr(), scope);
    case TK_RAISE:
      return expression(Raise(tree).expr(), scope);
    case TK_EXPR_STMT:
      return expression(ExprStmt(tree).expr(), scope);
    case TK_ASSERT:
      expression(Assert(tree).test(), scope);
      return present(Assert(tree).msg());
    case TK_DELETE:
      for (const Expr& target : Delete(tree).targets()) expression(target, scope);
      return;
    case TK_IF:
      expression(If(tree).cond(), scope);
      statements(If(tree).trueBranch(), scope);
      return statements(If(tree).falseBranch(), scope);
    case TK_WHILE:
      expression(While(tree).cond(), scope);
      return statements(While(tree).body(), scope);
    case TK_FOR:
      for (const Expr& each : For(tree).itrs()) expression(each, scope);
      for (const Expr& target : For(tree).targets()) expression(target, scope);
      return statements(For(tree).body(), scope);
    case TK_WITH:
      for (const WithItem& item : With(tree).targets()) expression(item.target(), scope);
      return statements(With(tree).body(), scope);
    default:  // a function in a function, a global name
      refuse(fmt::format("has the statement '{}'", kindToString(tree.kind())));
  }
}

REFINE_INLINE void CodeCheck::type(const TreeRef& tree) {
  if (is_type(tree)) return;
  const std::string text = spelled(tree);
  refuse(fmt::format("names the type {}", text.empty() ? "of an expression" : text));
}

REFINE_INLINE void CodeCheck::expression(const TreeRef& tree, const Scope& scope) {
  using namespace torch::jit;
  switch (tree->kind()) {
    case TK_CONST:
    case TK_STRINGLITERAL:
    case TK_TRUE:
    case TK_FALSE:
    case TK_NONE:
    case TK_DOTS:
      return;
    case TK_VAR: {
      const std::string name = dotted(tree);
      if (!scope.contains(name) && name != "inf" && name != "nan") {
        refuse(fmt::format("uses the name {}, which it does not define", name));
      }
      return;
    }
    case '.':
      return selection(tree, scope);
    case TK_APPLY:
      return call(tree, scope);
    case TK_LIST:
    case TK_OPTION:
    case TK_SUBSCRIPT:
    case TK_SLICE_EXPR:
    case TK_LIST_LITERAL:
    case TK_TUPLE_LITERAL:
    case TK_DICT_LITERAL:
    case TK_IF_EXPR:
    case TK_AND:
    case TK_OR:
    case TK_NOT:
    case TK_EQ:
    case TK_NE:
    case TK_LE:
    case TK_GE:
    case TK_IS:
    case TK_ISNOT:
    case TK_IN:
    case TK_POW:
    case TK_LSHIFT:
    case TK_RSHIFT:
    case TK_FLOOR_DIV:
    case TK_UNARY_MINUS:
    case '<':
    case '>':
    case '+':
    case '-':
    case '*':
    case '/':
    case '%':
    case '@':
    case '&':
    case '|':
    case '^':
    case '~':
      for (const TreeRef& part : tree->trees()) expression(part, scope);
      return;
    default:
      refuse(fmt::format("has the expression '{}'", kindToString(tree->kind())));
  }
}

REFINE_INLINE void CodeCheck::selection(const TreeRef& tree, const Scope& scope) {
  const std::string name = dotted(tree), first = root(name);
  if (name.empty() || scope.contains(first)) {  // of a value: what comes out is not called (see `call`)
    return expression(torch::jit::Select(tree).value(), scope);
  }
  constexpr std::string_view constants = "CONSTANTS.c";
  const bool is_constant = name.starts_with(constants) && name.size() > constants.size() &&
                           name.find_first_not_of("0123456789", constants.size()) == std::string::npos;
  if (!is_constant && !is_ours(name)) {
    refuse(fmt::format("uses the name {}, which it does not define", name));
  }
}

REFINE_INLINE void CodeCheck::call(const TreeRef& tree, const Scope& scope) {
  using namespace torch::jit;
  const Apply apply(tree);
  const Expr callee = apply.callee();
  const std::string name = dotted(callee);
  for (const Attribute& argument : apply.attributes()) expression(argument.value(), scope);
  if (!name.empty() && !scope.contains(root(name)) && callee.kind() == TK_VAR &&
      special(name, apply, scope)) {
    return;
  }
  for (const Expr& input : apply.inputs()) expression(input, scope);

  if (callee.kind() == TK_VAR) {
    const auto bound = scope.find(name);
    if (bound != scope.end() ? bound->second : callable.contains(name)) return;
    if (bound != scope.end()) return refuse(fmt::format("calls {}, which may be anything", name));
    return name_operator(name == "print" || name == "fork" || name == "awaitable" ? "prim::" + name : name);
  }
  if (callee.kind() != '.') return refuse("calls what an expression gives");
  if (name.empty() || scope.contains(root(name))) {
    expression(Select(callee).value(), scope);
    return method(Select(callee).selector().name());
  }
  const auto dots = std::ranges::count(name, '.');
  if (name.starts_with("torch.") && dots == 1) return name_operator("aten::" + name.substr(6));
  if (name.starts_with("ops.") && dots == 2) {
    const std::size_t dot = name.find('.', 4);
    return name_operator(name.substr(4, dot - 4) + "::" + name.substr(dot + 1));
  }
  constexpr std::string_view maker = ".__new__";
  const bool makes = name.ends_with(maker) && classes_.contains(name.substr(0, name.size() - maker.size()));
  if (!makes && !is_ours(name)) refuse(fmt::format("calls {}, which it does not define", name));
}

REFINE_INLINE void CodeCheck::method(const std::string& name) {
  const std::string qualified = "aten::" + name;
  const auto symbol = c10::Symbol::fromQualString(qualified);
  const bool is_operator = !torch::jit::getAllOperatorsFor(symbol).empty() ||
                           !torch::jit::getAllBuiltinFunctionsFor(symbol).empty();
  if (is_operator) return name_operator(qualified);
  if (name == "tolist") return;  // a form of its own: LibTorch looks at the type that is asked for
  if (!methods_.contains(name)) refuse(fmt::format("calls a method {}, which it does not define", name));
}

REFINE_INLINE bool CodeCheck::special(const std::string& name, const torch::jit::Apply& apply,
                                      const Scope& scope) {
  using namespace torch::jit;
  const auto inputs = apply.inputs();
  if (name == "uninitialized" && inputs.size() == 1) return type(inputs[0]), true;
  if (inputs.size() != 2) return false;
  if (name == "annotate" || name == "unchecked_cast") {
    type(inputs[0]);
    if (name == "unchecked_cast" && !is_scalar(inputs[0])) {
      refuse(fmt::format("takes something for a {} without a check", spelled(inputs[0])));
    }
    return expression(inputs[1], scope), true;
  }
  if (name == "isinstance") {
    expression(inputs[0], scope);
    const bool several = inputs[1].kind() == TK_TUPLE_LITERAL || inputs[1].kind() == TK_LIST_LITERAL;
    if (!several) return type(inputs[1]), true;
    for (const TreeRef& each : inputs[1].tree()->trees().at(0)->trees()) type(each);
    return true;
  }
  if ((name == "getattr" || name == "hasattr") && inputs[1].kind() == TK_STRINGLITERAL) {
    return expression(inputs[0], scope), true;
  }
  return false;
}

REFINE_INLINE bool CodeCheck::is_scalar(const TreeRef& tree) const {
  using namespace torch::jit;
  if (tree->kind() != TK_SUBSCRIPT) return plain_types.contains(dotted(tree)) && dotted(tree) != "Any";
  return dotted(Subscript(tree).value()) != "Tuple" && dotted(Subscript(tree).value()) != "Union" &&
         std::ranges::all_of(arguments_of(tree), [&](const TreeRef& each) { return is_scalar(each); });
}

}  // namespace refine::formats::detail::script
