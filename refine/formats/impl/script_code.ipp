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

/// Requires that few comments and empty lines follow each other, because LibTorch's lexer skips
/// them by recursion.
/// \throws std::runtime_error if there are too many in a row, or a control character
REFINE_INLINE void check_lines(std::string_view text) {
  std::size_t skipped = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
    begin += line.size() + 1;
    const std::size_t first = line.find_first_not_of(" \t\\");
    skipped = first == std::string_view::npos || line[first] == '#' ? skipped + 1 : 0;
    if (skipped > max_depth) {
      throw std::runtime_error(fmt::format("more than {} consecutive lines without code", max_depth));
    }
  }
  const auto is_control = [](unsigned char c) { return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f; };
  if (std::ranges::any_of(text, is_control)) throw std::runtime_error("it has a control character");
}

/// Bounds the depth of the tree that the parser will build, from the tokens alone. Within a level
/// of brackets, a chain such as `a.b.c`, `a + b + c` or `not not a` is as deep as it is long; a
/// comma ends it.
class DepthGauge {
 public:
  /// Adds the next token.
  /// \throws std::runtime_error if the tree may be too deep
  void take(const torch::jit::Token& token);

 private:
  static constexpr std::size_t max_name = 1000;
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
      if (chains_.size() == 1) throw std::runtime_error("a closing bracket without an opening one");
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
    case TK_IDENT:  // LibTorch matches names with std::regex, which recurses over a match
      if (token.range.size() > max_name) {
        throw std::runtime_error(
            fmt::format("a name has {} bytes, more than the {} allowed", token.range.size(), max_name));
      }
      break;
    case TK_NUMBER:
    case TK_STRINGLITERAL:
      break;
    default:
      ++chains_.back();
  }
  if (chains_.size() + indents_ + branches_ + std::reduce(chains_.begin(), chains_.end()) > max_depth) {
    throw std::runtime_error(fmt::format("the code is nested deeper than {} levels", max_depth));
  }
}

/// Returns the source after checking that the parser will not exhaust the stack.
/// \throws std::exception if it is nested too deep
REFINE_INLINE std::shared_ptr<torch::jit::Source> make_checked_source(const std::string& text,
                                                                      const std::string& name) {
  check_lines(text);
  auto source = std::make_shared<torch::jit::Source>(text, name, 0);
  DepthGauge gauge;
  for (torch::jit::Lexer lexer(source); lexer.cur().kind != torch::jit::TK_EOF;) gauge.take(lexer.next());
  return source;
}

REFINE_INLINE std::vector<torch::jit::TreeRef> parse_definitions(const std::string& text,
                                                                 const std::string& name) {
  using namespace torch::jit;
  Parser parser(make_checked_source(text, name));
  Lexer& lexer = parser.lexer();
  if (lexer.cur().kind == TK_IDENT && lexer.cur().text() == "op_version_set") {  // written by old versions
    while (lexer.next().kind != TK_NEWLINE) {
      if (lexer.cur().kind == TK_EOF) break;
    }
  }
  std::vector<TreeRef> result;
  while (lexer.cur().kind != TK_EOF) {
    if (lexer.nextIf(TK_IMPORT)) {  // an import has no effect
      while (lexer.cur().kind != TK_EOF && lexer.next().kind != TK_NEWLINE) continue;
    } else if (lexer.cur().kind == TK_CLASS_DEF) {
      result.push_back(parser.parseClass());
    } else if (lexer.cur().kind == TK_DEF) {
      result.push_back(parser.parseFunction(/*is_method=*/false));
    } else {
      throw std::runtime_error("'" + lexer.cur().text() + "' where a class or a function was expected");
    }
  }
  return result;
}

REFINE_INLINE torch::jit::TreeRef parse_type(const std::string& text) {
  torch::jit::Parser parser(make_checked_source(text, "type"));
  const torch::jit::TreeRef type = parser.parseExp();
  return type;
}

REFINE_INLINE std::string dotted_name(const torch::jit::TreeRef& tree) {
  using namespace torch::jit;
  if (tree->kind() == TK_VAR) return Var(tree).name().name();
  if (tree->kind() != '.') return {};
  const std::string base = dotted_name(Select(tree).value());
  return base.empty() ? base : base + "." + Select(tree).selector().name();
}

REFINE_INLINE std::string type_text(const torch::jit::TreeRef& tree) {
  using namespace torch::jit;
  if (tree->kind() == TK_NONE || tree->kind() == TK_NONE_TYPE) return "NoneType";
  if (tree->kind() == TK_TUPLE_LITERAL && TupleLiteral(tree).inputs().empty()) return "()";
  if (tree->kind() != TK_SUBSCRIPT) return dotted_name(tree);
  std::string text = type_text(Subscript(tree).value()) + "[";
  for (const TreeRef& argument : subscript_arguments(tree)) text += type_text(argument) + ",";
  text.back() = ']';
  return text;
}

REFINE_INLINE Objection objection_to(const std::string& name, std::string_view verb, std::string_view path) {
  using operators::Kind;
  const Kind kind = operators::classify(name);
  const std::string_view why = operators::refusal_reason(name);
  std::string text = fmt::format("its code {} the operator {}", verb, name);
  if (!path.empty()) text += fmt::format(" (in {})", path);
  return {kind == Kind::quantized ? Objection::Kind::quantized
          : kind == Kind::library ? Objection::Kind::library
          : kind == Kind::unknown ? Objection::Kind::unknown
                                  : Objection::Kind::harmful,
          text + ", " + std::string(why.empty() ? "which is not tensor arithmetic" : why)};
}

REFINE_INLINE std::size_t DefinitionGraph::find(const std::string& name) {
  const auto [found, is_new] = numbers_.emplace(name, nodes_.size());
  if (is_new) nodes_.emplace_back();
  return found->second;
}

// Tarjan's algorithm finds the groups of definitions that need each other, and needed groups first. It is written
// without recursion, since it looks for chains that are too long for it.
REFINE_INLINE std::size_t DefinitionGraph::deepest_chain() const {
  struct Visit {
    std::size_t node, next;
  };
  std::vector<std::size_t> order(nodes_.size(), 0), lowest(nodes_.size(), 0);  // 0: not seen yet
  std::vector<std::size_t> depth(nodes_.size(), 0);                            // 0: its group is not complete
  std::vector<std::size_t> group;
  std::vector<Visit> visits;
  std::size_t seen = 0, deepest = 0;
  const auto enter = [&](std::size_t node) {
    order[node] = lowest[node] = ++seen;
    group.push_back(node);
    visits.push_back({node, 0});
  };
  for (std::size_t root = 0; root < nodes_.size(); ++root) {
    if (order[root] == 0) enter(root);
    while (!visits.empty()) {
      const std::size_t node = visits.back().node;
      if (visits.back().next < nodes_[node].needs.size()) {
        const std::size_t needed = nodes_[node].needs[visits.back().next++];
        if (order[needed] == 0) {
          enter(needed);
        } else if (depth[needed] == 0) {
          lowest[node] = std::min(lowest[node], order[needed]);
        }
        continue;
      }
      visits.pop_back();
      if (!visits.empty()) lowest[visits.back().node] = std::min(lowest[visits.back().node], lowest[node]);
      if (lowest[node] != order[node]) continue;
      const auto first = std::find(group.rbegin(), group.rend(), node).base() - 1;
      std::size_t levels = 0, below = 0;
      const bool is_cycle = group.end() - first > 1;
      for (auto member = first; member != group.end(); ++member) {
        levels += nodes_[*member].levels;
        for (const std::size_t needed : nodes_[*member].needs) below = std::max(below, depth[needed]);
        for (const std::size_t method : nodes_[*member].methods) {
          if (is_cycle && depth[method] != 0) levels += nodes_[method].levels;  // else it is a member
        }
      }
      for (auto member = first; member != group.end(); ++member) depth[*member] = levels + below;
      deepest = std::max(deepest, levels + below);
      group.erase(first, group.end());
    }
  }
  return deepest;
}

/// The depth of a tree, and whether it leaves a loop or a function.
struct TreeDepth {
  std::size_t levels = 1;
  bool has_exit = false;
};

/// Returns the depth that LibTorch gives a tree: it moves what follows a statement with an exit into a branch.
REFINE_INLINE TreeDepth measure_depth(const torch::jit::TreeRef& tree) {
  using namespace torch::jit;
  TreeDepth result{.has_exit =
                       tree->kind() == TK_RETURN || tree->kind() == TK_BREAK || tree->kind() == TK_CONTINUE};
  constexpr std::size_t levels_of_exit = 5;  // it takes more time than a level of the source
  std::size_t exits = 0;
  for (const TreeRef& part : tree->trees()) {
    const TreeDepth inner = measure_depth(part);
    result.levels = std::max(result.levels, inner.levels + exits + 1);
    if (tree->kind() == TK_LIST && inner.has_exit) exits += levels_of_exit;
    result.has_exit = result.has_exit || inner.has_exit;
  }
  return result;
}

REFINE_INLINE std::size_t tree_depth(const torch::jit::TreeRef& tree) {
  return measure_depth(tree).levels;
}

REFINE_INLINE CodeCheck::CodeCheck(const std::map<std::string, std::string>& code, Report report)
    : report_(std::move(report)) {
  for (const auto& [path, text] : code) {
    try {
      files_.emplace_back(path, parse_definitions(text, path));
    } catch (const std::exception& error) {
      report_({Objection::Kind::harmful,
               fmt::format("its code cannot be parsed (in {}: {})", path, first_line(error.what()))});
    }
  }
  for_each_definition([&](const TreeRef& tree) { collect(tree); });
  for_each_definition([&](const TreeRef& tree) {
    tree->kind() == torch::jit::TK_DEF ? check_function(tree) : check_class(tree);
  });
  check_chains();
}

REFINE_INLINE bool CodeCheck::is_type(const torch::jit::TreeRef& tree) const {
  using namespace torch::jit;
  switch (tree->kind()) {
    case TK_NONE:
    case TK_NONE_TYPE:
      return true;
    case TK_VAR:
    case '.':
      return plain_types.contains(dotted_name(tree)) || classes_.contains(dotted_name(tree));
    case TK_TUPLE_LITERAL:
      return TupleLiteral(tree).inputs().empty();
    case TK_SUBSCRIPT:
      return containers.contains(dotted_name(Subscript(tree).value())) &&
             !subscript_arguments(tree).empty() &&
             std::ranges::all_of(subscript_arguments(tree),
                                 [&](const TreeRef& each) { return is_type(each); });
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

REFINE_INLINE void CodeCheck::for_each_definition(const std::function<void(const TreeRef&)>& check) {
  for (const auto& [path, trees] : files_) {
    path_ = path;
    try {
      std::ranges::for_each(trees, check);
    } catch (const std::exception& error) {  // a tree that the grammar does not have
      refuse(fmt::format("cannot be parsed: {}", first_line(error.what())));
    }
  }
}

REFINE_INLINE void CodeCheck::refuse(std::string_view what) const {
  // Only the quantised modules of PyTorch have such classes, whatever else is wrong with them.
  const bool quantized = what.find("torch.classes.quantized.") != std::string_view::npos ||
                         what.find("__torch__.torch.classes.quantized") != std::string_view::npos;
  report_({quantized ? Objection::Kind::quantized : Objection::Kind::harmful,
           fmt::format("its code {} (in {})", what, path_)});
}

REFINE_INLINE void CodeCheck::add_operator(const std::string& name) {
  operators_.insert(name);
  if (!operators::permits(name)) report_(objection_to(name, "names", path_));
}

REFINE_INLINE void CodeCheck::collect(const TreeRef& tree) {
  using namespace torch::jit;
  const bool is_function = tree->kind() == TK_DEF;
  const std::string name =
      qualifier(path_) + "." + (is_function ? Def(tree).name().name() : ClassDef(tree).name().name());
  if (is_defined(name)) refuse(fmt::format("defines {} twice", name));
  for (const std::string_view special : {"torch.classes", "torch.nn.quantized", "torch.ao.nn.quantized"}) {
    if (name.find(special) != std::string::npos) {
      refuse(fmt::format("defines {}, a name of PyTorch itself", name));
    }
  }
  if (is_function) {
    functions_.insert(name);
    return;
  }
  const ClassDef definition(tree);
  ClassOutline result;
  if (definition.superclass().present()) {
    const std::string base = dotted_name(definition.superclass().get());
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
  return target.kind() == TK_SUBSCRIPT && dotted_name(Subscript(target).value()) == "__annotations__" &&
         Subscript(target).subscript_exprs().size() == 1 &&
         Subscript(target).subscript_exprs()[0].kind() == TK_STRINGLITERAL;
}

REFINE_INLINE void CodeCheck::check_class(const TreeRef& tree) {
  using namespace torch::jit;
  const ClassDef definition(tree);
  const std::string name = definition.name().name();
  if (definition.superclass().present()) {
    const std::string base = dotted_name(definition.superclass().get());
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
      check_function(statement);
    } else if (statement.kind() == TK_ASSIGN) {
      check_field(name, Assign(statement));
    } else if (statement.kind() != TK_PASS) {
      refuse(fmt::format("has a class {} with a statement that a class cannot have", name));
    }
  }
}

REFINE_INLINE void CodeCheck::check_field(const std::string& name, const torch::jit::Assign& assign) {
  using namespace torch::jit;
  const auto malformed = [&] { refuse(fmt::format("has a class {} with a malformed field", name)); };
  if (assign.lhs_list().size() != 1) return malformed();
  const Expr target = assign.lhs();
  if (is_annotation(target)) {
    if (!assign.rhs().present()) return malformed();
    return check_field_type(name, assign.rhs().get());
  }
  if (target.kind() != TK_VAR) return malformed();
  const bool is_list =
      Names{"__parameters__", "__buffers__", "__annotations__", "__forward_hooks__", "__forward_pre_hooks__"}
          .contains(Var(target).name().name());
  if (assign.rhs().present() && !is_literal(assign.rhs().get())) return malformed();
  if (is_list) return;
  if (!assign.type().present()) return malformed();
  if (!assign.rhs().present()) return check_field_type(name, assign.type().get());
  const Expr type = assign.type().get();  // Final[int] = 3 is evaluated while the file is loaded
  if (type.kind() != TK_SUBSCRIPT || dotted_name(Subscript(type).value()) != "Final" ||
      Subscript(type).subscript_exprs().size() != 1) {
    return malformed();
  }
  check_field_type(name, Subscript(type).subscript_exprs()[0]);
}

REFINE_INLINE void CodeCheck::check_field_type(const std::string& name, const TreeRef& tree) {
  if (is_type(tree)) return;
  const std::string text = type_text(tree);
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
      return dotted_name(tree) == "inf" || dotted_name(tree) == "nan";
    case TK_LIST:
    case TK_UNARY_MINUS:
    case TK_LIST_LITERAL:
    case TK_TUPLE_LITERAL:
    case TK_DICT_LITERAL:
      return std::ranges::all_of(tree->trees(), is_literal);
    case TK_APPLY: {  // annotate(List[int], [])
      const auto inputs = Apply(tree).inputs();
      return dotted_name(Apply(tree).callee()) == "annotate" && inputs.size() == 2 && is_literal(inputs[1]);
    }
    default:
      return false;
  }
}

REFINE_INLINE void CodeCheck::check_function(const TreeRef& tree) {
  using namespace torch::jit;
  const Def definition(tree);
  Scope scope;
  for (const Param& param : definition.decl().params()) {
    bind(scope, param.ident().name(), false);
    if (param.type().present()) check_type(param.type().get());
    if (param.defaultValue().present() && !is_literal(param.defaultValue().get())) {
      refuse(fmt::format("evaluates a default argument of {} while the file is loaded",
                         definition.name().name()));
    }
  }
  if (definition.decl().return_type().present()) check_type(definition.decl().return_type().get());
  bind_all(scope, definition.statements());
  check_statements(definition.statements(), scope);
}

REFINE_INLINE void CodeCheck::bind(Scope& scope, const std::string& name, bool may_be_called) {
  if (reserved.contains(name)) refuse(fmt::format("redefines the name {}", name));
  const auto [entry, is_new] = scope.emplace(name, may_be_called);
  entry->second = entry->second && may_be_called;
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
        const bool is_callable = assign.rhs().present() && is_defined(dotted_name(assign.rhs().get()));
        for (const Expr& target : assign.lhs_list()) bind_target(scope, target, is_callable);
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

REFINE_INLINE void CodeCheck::check_chains() {
  using namespace torch::jit;
  constexpr std::size_t max_levels = 1000;  // a level takes 1 to 2 KB of the stack
  DefinitionGraph graph;
  for_each_definition([&](const TreeRef& tree) {
    if (tree->kind() == TK_DEF) {
      const std::size_t function = graph.find(qualifier(path_) + "." + Def(tree).name().name());
      graph.add_levels(function, tree_depth(tree));
      return add_needs(graph, function, tree, function, {});
    }
    const ClassDef definition(tree);
    const std::string name = qualifier(path_) + "." + definition.name().name();
    const std::size_t whole = graph.find(name);
    Methods methods;
    const std::size_t operators = graph.find(name + ":");  // a + b calls a.__add__(b)
    graph.add_levels(operators, 1);
    for (const Stmt& statement : definition.body()) {
      if (statement.kind() != TK_DEF) continue;
      const std::string method = Def(statement).name().name();
      const std::size_t number = graph.find(fmt::format("{}:{}", name, method));  // no name has a colon
      methods.emplace(method, number);
      if (method.starts_with("__")) graph.add_need(operators, number);
    }
    std::size_t field_levels = 0;
    for (const Stmt& statement : definition.body()) {
      if (statement.kind() != TK_DEF) {
        field_levels = std::max(field_levels, tree_depth(statement));
        add_needs(graph, whole, statement, whole, {});
        continue;
      }
      const std::size_t method = methods.at(Def(statement).name().name());
      graph.add_levels(method, tree_depth(statement));
      graph.add_method(whole, method);
      add_needs(graph, method, statement, whole, methods);
      graph.add_need(method, operators);
    }
    graph.add_levels(whole, 1 + field_levels);
  });
  if (const std::size_t levels = graph.deepest_chain(); levels > max_levels) {
    report_({Objection::Kind::harmful,
             fmt::format("its code has a chain of functions and classes, of which each needs the next, "
                         "with {} levels, more than the {} allowed",
                         levels, max_levels)});
  }
}

REFINE_INLINE void CodeCheck::add_needs(DefinitionGraph& graph, std::size_t from, const TreeRef& tree,
                                        std::size_t own_class, const Methods& methods) const {
  using namespace torch::jit;
  if (tree->kind() == TK_VAR || tree->kind() == '.') {
    const std::string name = dotted_name(tree);
    if (is_defined(name) && graph.find(name) != own_class) graph.add_need(from, graph.find(name));
  }
  if (tree->kind() == '.') {
    // The value is taken for one of the same class. Another class is complete before there is a value of it, unless
    // the two name each other: then `deepest_chain` adds all of their methods.
    const auto method = methods.find(Select(tree).selector().name());
    if (method != methods.end()) graph.add_need(from, method->second);
  }
  for (const TreeRef& part : tree->trees()) add_needs(graph, from, part, own_class, methods);
}

REFINE_INLINE void CodeCheck::check_statements(const torch::jit::List<torch::jit::Stmt>& body,
                                               const Scope& scope) {
  for (const auto& statement : body) check_statement(statement, scope);
}

REFINE_INLINE void CodeCheck::check_statement(const torch::jit::Stmt& tree, const Scope& scope) {
  using namespace torch::jit;
  const auto check_optional = [&](const Maybe<Expr>& maybe) {
    if (maybe.present()) check_expression(maybe.get(), scope);
  };
  switch (tree.kind()) {
    case TK_PASS:
    case TK_BREAK:
    case TK_CONTINUE:
      return;
    case TK_ASSIGN: {
      const Assign assign(tree);
      for (const Expr& target : assign.lhs_list()) check_expression(target, scope);
      check_optional(assign.rhs());
      if (assign.type().present()) check_type(assign.type().get());
      return;
    }
    case TK_AUG_ASSIGN:
      check_expression(AugAssign(tree).lhs(), scope);
      return check_expression(AugAssign(tree).rhs(), scope);
    case TK_RETURN:
      return check_expression(Return(tree).expr(), scope);
    case TK_RAISE:
      return check_expression(Raise(tree).expr(), scope);
    case TK_EXPR_STMT:
      return check_expression(ExprStmt(tree).expr(), scope);
    case TK_ASSERT:
      check_expression(Assert(tree).test(), scope);
      return check_optional(Assert(tree).msg());
    case TK_DELETE:
      for (const Expr& target : Delete(tree).targets()) check_expression(target, scope);
      return;
    case TK_IF:
      check_expression(If(tree).cond(), scope);
      check_statements(If(tree).trueBranch(), scope);
      return check_statements(If(tree).falseBranch(), scope);
    case TK_WHILE:
      check_expression(While(tree).cond(), scope);
      return check_statements(While(tree).body(), scope);
    case TK_FOR:
      for (const Expr& each : For(tree).itrs()) check_expression(each, scope);
      for (const Expr& target : For(tree).targets()) check_expression(target, scope);
      return check_statements(For(tree).body(), scope);
    case TK_WITH:
      for (const WithItem& item : With(tree).targets()) check_expression(item.target(), scope);
      return check_statements(With(tree).body(), scope);
    default:  // a nested function, a global declaration
      refuse(fmt::format("has the statement '{}'", kindToString(tree.kind())));
  }
}

REFINE_INLINE void CodeCheck::check_type(const TreeRef& tree) {
  if (is_type(tree)) return;
  const std::string text = type_text(tree);
  refuse(fmt::format("names the type {}", text.empty() ? "of an expression" : text));
}

REFINE_INLINE void CodeCheck::check_expression(const TreeRef& tree, const Scope& scope) {
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
      const std::string name = dotted_name(tree);
      if (!scope.contains(name) && name != "inf" && name != "nan") {
        refuse(fmt::format("uses the name {}, which it does not define", name));
      }
      return;
    }
    case '.':
      return check_selection(tree, scope);
    case TK_APPLY:
      return check_call(tree, scope);
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
      for (const TreeRef& part : tree->trees()) check_expression(part, scope);
      return;
    default:
      refuse(fmt::format("has the expression '{}'", kindToString(tree->kind())));
  }
}

REFINE_INLINE void CodeCheck::check_selection(const TreeRef& tree, const Scope& scope) {
  const std::string name = dotted_name(tree), first = root(name);
  if (name.empty() ||
      scope.contains(first)) {  // an attribute of a value; its result is not called (see `check_call`)
    return check_expression(torch::jit::Select(tree).value(), scope);
  }
  constexpr std::string_view constants = "CONSTANTS.c";
  const bool is_constant = name.starts_with(constants) && name.size() > constants.size() &&
                           name.find_first_not_of("0123456789", constants.size()) == std::string::npos;
  if (!is_constant && !is_defined(name)) {
    refuse(fmt::format("uses the name {}, which it does not define", name));
  }
}

REFINE_INLINE void CodeCheck::check_call(const TreeRef& tree, const Scope& scope) {
  using namespace torch::jit;
  const Apply apply(tree);
  const Expr callee = apply.callee();
  const std::string name = dotted_name(callee);
  for (const Attribute& argument : apply.attributes()) check_expression(argument.value(), scope);
  if (!name.empty() && !scope.contains(root(name)) && callee.kind() == TK_VAR &&
      check_special_call(name, apply, scope)) {
    return;
  }
  for (const Expr& input : apply.inputs()) check_expression(input, scope);

  if (callee.kind() == TK_VAR) {
    const auto bound = scope.find(name);
    if (bound != scope.end() ? bound->second : callable.contains(name)) return;
    if (bound != scope.end()) return refuse(fmt::format("calls {}, which may be anything", name));
    return add_operator(name == "print" || name == "fork" || name == "awaitable" ? "prim::" + name : name);
  }
  if (callee.kind() != '.') return refuse("calls the result of an expression");
  if (name.empty() || scope.contains(root(name))) {
    check_expression(Select(callee).value(), scope);
    return check_method(Select(callee).selector().name());
  }
  const auto dots = std::ranges::count(name, '.');
  if (name.starts_with("torch.") && dots == 1) return add_operator("aten::" + name.substr(6));
  if (name.starts_with("ops.") && dots == 2) {
    const std::size_t dot = name.find('.', 4);
    return add_operator(name.substr(4, dot - 4) + "::" + name.substr(dot + 1));
  }
  constexpr std::string_view constructor = ".__new__";
  const bool is_constructor =
      name.ends_with(constructor) && classes_.contains(name.substr(0, name.size() - constructor.size()));
  if (!is_constructor && !is_defined(name)) refuse(fmt::format("calls {}, which it does not define", name));
}

REFINE_INLINE void CodeCheck::check_method(const std::string& name) {
  const std::string qualified = "aten::" + name;
  const auto symbol = c10::Symbol::fromQualString(qualified);
  const bool is_operator = !torch::jit::getAllOperatorsFor(symbol).empty() ||
                           !torch::jit::getAllBuiltinFunctionsFor(symbol).empty();
  if (is_operator) return add_operator(qualified);
  if (name == "tolist") return;  // special syntax; LibTorch checks the requested type
  if (!methods_.contains(name)) refuse(fmt::format("calls a method {}, which it does not define", name));
}

REFINE_INLINE bool CodeCheck::check_special_call(const std::string& name, const torch::jit::Apply& apply,
                                                 const Scope& scope) {
  using namespace torch::jit;
  const auto inputs = apply.inputs();
  if (name == "uninitialized" && inputs.size() == 1) return check_type(inputs[0]), true;
  if (inputs.size() != 2) return false;
  if (name == "annotate" || name == "unchecked_cast") {
    check_type(inputs[0]);
    if (name == "unchecked_cast" && !is_scalar(inputs[0])) {
      refuse(fmt::format("casts a value to {} without a check", type_text(inputs[0])));
    }
    return check_expression(inputs[1], scope), true;
  }
  if (name == "isinstance") {
    check_expression(inputs[0], scope);
    const bool several = inputs[1].kind() == TK_TUPLE_LITERAL || inputs[1].kind() == TK_LIST_LITERAL;
    if (!several) return check_type(inputs[1]), true;
    for (const TreeRef& each : inputs[1].tree()->trees().at(0)->trees()) check_type(each);
    return true;
  }
  if ((name == "getattr" || name == "hasattr") && inputs[1].kind() == TK_STRINGLITERAL) {
    return check_expression(inputs[0], scope), true;
  }
  return false;
}

REFINE_INLINE bool CodeCheck::is_scalar(const TreeRef& tree) const {
  using namespace torch::jit;
  if (tree->kind() != TK_SUBSCRIPT) {
    return plain_types.contains(dotted_name(tree)) && dotted_name(tree) != "Any";
  }
  return dotted_name(Subscript(tree).value()) != "Tuple" && dotted_name(Subscript(tree).value()) != "Union" &&
         std::ranges::all_of(subscript_arguments(tree), [&](const TreeRef& each) { return is_scalar(each); });
}

}  // namespace refine::formats::detail::script
