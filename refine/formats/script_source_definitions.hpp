#pragma once

// What script_source.hpp declares.

#include <refine/formats/script_source.hpp>

#include <torch/csrc/jit/frontend/lexer.h>
#include <torch/csrc/jit/frontend/parser.h>
#include <torch/csrc/jit/frontend/source_range.h>
#include <torch/csrc/jit/frontend/tree_views.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/compiled.hpp>

namespace refine::formats::detail::script {

/// The lexer goes over comments and empty lines by recursion.
/// \throws std::runtime_error where there are too many in a row, and at control characters
REFINE_DEFINITION void require_dense(std::string_view text) {
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

REFINE_DEFINITION void DepthGauge::take(const torch::jit::Token& token) {
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
REFINE_DEFINITION std::shared_ptr<torch::jit::Source> shallow_source(const std::string& text,
                                                                     const std::string& name) {
  require_dense(text);
  auto source = std::make_shared<torch::jit::Source>(text, name, 0);
  DepthGauge gauge;
  for (torch::jit::Lexer lexer(source); lexer.cur().kind != torch::jit::TK_EOF;) gauge.take(lexer.next());
  return source;
}

REFINE_DEFINITION std::vector<torch::jit::TreeRef> definitions(const std::string& text,
                                                               const std::string& name) {
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

REFINE_DEFINITION torch::jit::TreeRef type_of(const std::string& text) {
  torch::jit::Parser parser(shallow_source(text, "type"));
  const torch::jit::TreeRef type = parser.parseExp();
  return type;
}

REFINE_DEFINITION std::string dotted(const torch::jit::TreeRef& tree) {
  using namespace torch::jit;
  if (tree->kind() == TK_VAR) return Var(tree).name().name();
  if (tree->kind() != '.') return {};
  const std::string base = dotted(Select(tree).value());
  return base.empty() ? base : base + "." + Select(tree).selector().name();
}

REFINE_DEFINITION std::string spelled(const torch::jit::TreeRef& tree) {
  using namespace torch::jit;
  if (tree->kind() == TK_NONE || tree->kind() == TK_NONE_TYPE) return "NoneType";
  if (tree->kind() == TK_TUPLE_LITERAL && TupleLiteral(tree).inputs().empty()) return "()";
  if (tree->kind() != TK_SUBSCRIPT) return dotted(tree);
  std::string text = spelled(Subscript(tree).value()) + "[";
  for (const TreeRef& argument : arguments_of(tree)) text += spelled(argument) + ",";
  text.back() = ']';
  return text;
}

}  // namespace refine::formats::detail::script
