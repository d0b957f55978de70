#pragma once

#include <refine/programs/onnx.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <variant>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>

namespace refine::backbones::detail {

using formats::ElementType;
using formats::GraphArgument;
using formats::GraphInteger;
using formats::OnnxNode;
using formats::OnnxTensor;

/// The longest list that is taken for sizes.
inline constexpr std::int64_t max_sizes = 64;

inline GraphArgument argument_of(const GraphInteger& number) {
  return std::visit([](const auto& each) { return GraphArgument(each); }, number);
}

/// Translates an ONNX model to a program.
///
/// Values that are sizes (results of Shape, and what is computed from them) are followed as lists of
/// integers: they become arguments of calls. All others are tensors of the program.
class OnnxTranslator {
 public:
  OnnxTranslator(std::shared_ptr<const formats::OnnxModel> model, const std::string& name)
      : model_(std::move(model)), file_(name) {}

  /// Returns the program.
  /// \throws Error if something is not translated
  formats::ExportedProgram translate();

 private:
  using Named = std::vector<std::pair<std::string, GraphArgument>>;
  using Integers = std::vector<GraphInteger>;

  /// What is known of a value.
  struct Value {
    std::string name = {};                            // of the program's value; empty: none yet
    std::optional<std::size_t> rank = std::nullopt;   // number of dimensions
    std::optional<Integers> integers = std::nullopt;  // if it is a size or a list of sizes
    const OnnxTensor* constant = nullptr;             // if it is in the file
    bool is_float = true;                             // element type
  };

  [[noreturn]] void fail(const std::string& why) const {
    throw Error("cannot use {} as a classifier: {}; ask for the PyTorch model, exported with torch.export",
                file_, why);
  }
  [[noreturn]] void refuse(const std::string& why) const {
    const bool has_name = !node_->name.empty() || node_->outputs.empty();
    fail(fmt::format("its node '{}' ({}) {}", has_name ? node_->name : node_->outputs[0], node_->op, why));
  }

  // Attributes of the node.
  const formats::OnnxAttribute* attribute(const std::string& name);
  std::int64_t integer(const std::string& name, std::int64_t otherwise);
  double real(const std::string& name, double otherwise);
  std::string text(const std::string& name, const std::string& otherwise);
  std::optional<std::vector<std::int64_t>> list(const std::string& name);

  // Inputs of the node.
  bool has(std::size_t i) const { return i < node_->inputs.size() && !node_->inputs[i].empty(); }
  Value& input(std::size_t i);
  formats::ValueName tensor(std::size_t i);
  formats::ValueName tensor(Value& value, const std::string& onnx_name);
  formats::ValueName from_sizes(const Integers& integers, bool is_scalar);
  std::size_t rank(std::size_t i);
  std::optional<std::vector<std::int64_t>> constants(std::size_t i);
  std::optional<double> constant_number(std::size_t i);
  const Integers& sizes(std::size_t i);
  std::optional<std::vector<std::int64_t>> axes(std::size_t i);
  std::int64_t axis(std::int64_t given, std::size_t rank) const;

  // Results.
  std::string unique(const std::string& wanted);
  formats::ValueName call(const std::string& target, Named arguments);
  std::vector<formats::ValueName> call_list(const std::string& target, Named arguments, std::size_t count);
  GraphInteger size_of(const formats::ValueName& value, std::int64_t dimension);
  /// Returns the result of + - * or /, which rounds down.
  GraphInteger calculate(char sign, const GraphInteger& a, const GraphInteger& b);
  /// Returns a quotient that is rounded towards zero.
  GraphInteger divide(const GraphInteger& a, const GraphInteger& b);
  bool may_be_negative(const GraphInteger& size) const;
  /// Returns an extent. If it turns out to be 1, the program ends with an error.
  GraphInteger not_one(const GraphInteger& extent);
  void set(formats::ValueName name, std::optional<std::size_t> rank, bool is_float, std::size_t output = 0);
  /// \throws Error if they are more than `max_sizes`: each node could double them
  void set_sizes(Integers integers, bool is_scalar);
  /// Names the first input anew.
  void set_same();
  formats::ValueName zero_padded(formats::ValueName value, const std::vector<GraphInteger>& pads,
                                 double content);

  // Operators.
  void translate_node();
  bool translate_sizes();
  void unary(const char* target);
  void binary(const char* target, bool gives_boolean = false);
  void variadic(const char* target);
  void convolution();
  void pooling();
  void normalization();
  void layer_normalization();
  void gemm();
  void matmul();
  void reduction(const char* target);
  void reshape();
  void flatten();
  void transpose();
  void concatenate();
  void split();
  void slice();
  void gather();
  void squeeze();
  void unsqueeze();
  void cast();
  void clip();
  void expand();
  void pad();
  void resize();
  void constant();
  void constant_of_shape();
  void shape();
  void hard_sigmoid();

  struct Window {
    std::vector<std::int64_t> strides = {}, dilations = {};
    std::vector<GraphInteger> begin = {}, end = {};  // padding before and after
    bool is_symmetric = true;                        // constant, and the same before and after
  };
  Window window(const std::vector<std::int64_t>& kernel);

  using Handler = void (*)(OnnxTranslator&);
  static const std::map<std::string, Handler>& handlers();

  std::shared_ptr<const formats::OnnxModel> model_;
  std::string file_;
  formats::ExportedProgram program_;
  std::map<std::string, Value> values_;
  std::map<std::string, OnnxTensor> made_;  // constants of nodes
  std::set<std::string> names_;
  std::map<std::string, int> suffixes_;  // the last of each name
  std::set<std::string> signed_;         // sizes that may be negative
  std::set<std::string> read_;           // attributes of the node that were read
  const OnnxNode* node_ = nullptr;
};

// --- attributes and inputs -----------------------------------------------------------------------------------

REFINE_INLINE const formats::OnnxAttribute* OnnxTranslator::attribute(const std::string& name) {
  read_.insert(name);
  const auto found = node_->attributes.find(name);
  return found == node_->attributes.end() ? nullptr : &found->second;
}

REFINE_INLINE std::int64_t OnnxTranslator::integer(const std::string& name, std::int64_t otherwise) {
  const auto* found = attribute(name);
  if (!found) return otherwise;
  const auto* number = std::get_if<std::int64_t>(found);
  if (!number) refuse(fmt::format("has an attribute '{}' that is not an integer", name));
  return *number;
}

REFINE_INLINE double OnnxTranslator::real(const std::string& name, double otherwise) {
  const auto* found = attribute(name);
  if (!found) return otherwise;
  const auto* number = std::get_if<float>(found);
  if (!number) refuse(fmt::format("has an attribute '{}' that is not a number", name));
  return *number;
}

REFINE_INLINE std::string OnnxTranslator::text(const std::string& name, const std::string& otherwise) {
  const auto* found = attribute(name);
  if (!found) return otherwise;
  const auto* words = std::get_if<std::string>(found);
  if (!words) refuse(fmt::format("has an attribute '{}' that is not a text", name));
  return *words;
}

REFINE_INLINE std::optional<std::vector<std::int64_t>> OnnxTranslator::list(const std::string& name) {
  const auto* found = attribute(name);
  if (!found) return std::nullopt;
  const auto* numbers = std::get_if<std::vector<std::int64_t>>(found);
  if (!numbers) refuse(fmt::format("has an attribute '{}' that is not a list of integers", name));
  return *numbers;
}

REFINE_INLINE OnnxTranslator::Value& OnnxTranslator::input(std::size_t i) {
  if (!has(i)) refuse(fmt::format("lacks its input {}", i));
  const auto found = values_.find(node_->inputs[i]);
  if (found == values_.end()) refuse(fmt::format("uses '{}', which is not known", node_->inputs[i]));
  return found->second;
}

/// Returns the program's value of a value, which is added to the program if it is a constant.
REFINE_INLINE formats::ValueName OnnxTranslator::tensor(Value& value, const std::string& onnx_name) {
  if (!value.name.empty()) return {value.name};
  const OnnxTensor* content = value.constant;
  if (!content && value.integers) {
    OnnxTensor made{.type = ElementType::int64};
    if (value.rank != 0) made.sizes = {static_cast<std::int64_t>(value.integers->size())};
    for (const GraphInteger& each : *value.integers) {
      const auto* number = std::get_if<std::int64_t>(&each);
      if (!number) {
        value.name = from_sizes(*value.integers, value.rank == 0U).name;
        return {value.name};
      }
      char bytes[sizeof *number];
      std::memcpy(bytes, number, sizeof *number);
      made.bytes.append(bytes, sizeof *number);
    }
    content = value.constant = &(made_[onnx_name] = std::move(made));
  }
  if (!content) refuse(fmt::format("uses '{}', which is not a tensor", onnx_name));
  std::vector<std::int64_t> strides(content->sizes.size(), 1);
  for (std::size_t d = strides.size(); d-- > 1;)
    strides[d - 1] = strides[d] * std::max<std::int64_t>(content->sizes[d], 1);
  const bool is_parameter = model_->tensors.contains(onnx_name);
  const std::string& name = value.name = is_parameter ? onnx_name : unique(onnx_name);
  program_.tensors[name] = {.type = content->type,
                            .sizes = content->sizes,
                            .strides = std::move(strides),
                            .entry = name,
                            .is_parameter = is_parameter};
  program_.bytes[name] = content->bytes;
  program_.inputs.push_back({.kind = formats::GraphInput::Kind::tensor, .name = name, .stored = name});
  return {name};
}

/// Returns a tensor of sizes.
REFINE_INLINE formats::ValueName OnnxTranslator::from_sizes(const Integers& integers, bool is_scalar) {
  std::vector<formats::ValueName> numbers;
  for (const GraphInteger& each : integers) {
    numbers.push_back(call(
        "aten::scalar_tensor.default",
        {{"s", argument_of(each)}, {"dtype", ElementType::int64}, {"device", formats::GraphDevice{"cpu"}}}));
  }
  if (is_scalar) return numbers.at(0);
  return call("aten::stack.default", {{"tensors", numbers}, {"dim", std::int64_t{0}}});
}

REFINE_INLINE formats::ValueName OnnxTranslator::tensor(std::size_t i) {
  Value& value = input(i);  // throws if there is none
  return tensor(value, node_->inputs[i]);
}

REFINE_INLINE std::size_t OnnxTranslator::rank(std::size_t i) {
  const Value& value = input(i);
  if (!value.rank) refuse("takes a tensor whose number of dimensions is not known");
  return *value.rank;
}

/// Returns an input that is a list of constant integers.
REFINE_INLINE std::optional<std::vector<std::int64_t>> OnnxTranslator::constants(std::size_t i) {
  const Value& value = input(i);
  if (!value.integers) return value.constant ? value.constant->integers() : std::nullopt;
  std::vector<std::int64_t> numbers;
  for (const GraphInteger& each : *value.integers) {
    const auto* number = std::get_if<std::int64_t>(&each);
    if (!number) return std::nullopt;
    numbers.push_back(*number);
  }
  return numbers;
}

/// Returns an input that is one constant number.
REFINE_INLINE std::optional<double> OnnxTranslator::constant_number(std::size_t i) {
  const Value& value = input(i);
  if (!value.constant || value.constant->count() != 1) return std::nullopt;
  const auto numbers = value.constant->reals();
  return numbers ? std::optional(numbers->at(0)) : std::nullopt;
}

/// Returns an input that is a list of sizes.
REFINE_INLINE const OnnxTranslator::Integers& OnnxTranslator::sizes(std::size_t i) {
  const Value& value = input(i);
  if (!value.integers)
    refuse(fmt::format("has sizes ('{}') that depend on what the images show", node_->inputs[i]));
  return *value.integers;
}

/// Returns the axes that are an input or, in older versions of an operator, an attribute.
REFINE_INLINE std::optional<std::vector<std::int64_t>> OnnxTranslator::axes(std::size_t i) {
  if (!has(i)) return list("axes");
  const auto numbers = constants(i);
  if (!numbers) refuse("has axes that are not constant");
  return numbers;
}

REFINE_INLINE std::int64_t OnnxTranslator::axis(std::int64_t given, std::size_t rank) const {
  const auto count = static_cast<std::int64_t>(rank);
  const std::int64_t positive = given < 0 ? given + count : given;
  if (positive < 0 || positive >= count) refuse(fmt::format("has the axis {} of {} dimensions", given, rank));
  return positive;
}

// --- results -------------------------------------------------------------------------------------------------

/// Returns a name that no value of the program has.
REFINE_INLINE std::string OnnxTranslator::unique(const std::string& wanted) {
  std::string name = wanted;
  if (names_.insert(name).second) return name;
  int& last = suffixes_[wanted];
  do name = fmt::format("{}'{}", wanted, ++last);
  while (!names_.insert(name).second);
  return name;
}

REFINE_INLINE formats::ValueName OnnxTranslator::call(const std::string& target, Named arguments) {
  const std::string name = unique(node_->outputs.at(0));
  const std::size_t positional = arguments.size();
  program_.nodes.push_back({.name = name,
                            .target = target,
                            .inputs = std::move(arguments),
                            .outputs = {formats::ValueName{name}},
                            .positional = positional});
  return {name};
}

REFINE_INLINE std::vector<formats::ValueName> OnnxTranslator::call_list(const std::string& target,
                                                                        Named arguments, std::size_t count) {
  call(target, std::move(arguments));
  std::vector<formats::ValueName> results;
  for (std::size_t i = 0; i < count; ++i) {
    results.push_back({unique(fmt::format("{}#{}", program_.nodes.back().name, i))});
  }
  program_.nodes.back().outputs = {results};
  return results;
}

REFINE_INLINE GraphInteger OnnxTranslator::size_of(const formats::ValueName& value, std::int64_t dimension) {
  return call("aten::sym_size.int", {{"self", value}, {"dim", dimension}});
}

REFINE_INLINE GraphInteger OnnxTranslator::calculate(char sign, const GraphInteger& a,
                                                     const GraphInteger& b) {
  const auto *x = std::get_if<std::int64_t>(&a), *y = std::get_if<std::int64_t>(&b);
  if (x && y) {
    std::int64_t result = 0;
    const bool overflow = sign == '+'   ? __builtin_add_overflow(*x, *y, &result)
                          : sign == '-' ? __builtin_sub_overflow(*x, *y, &result)
                          : sign == '*' ? __builtin_mul_overflow(*x, *y, &result)
                                        : *y == 0 || (*x == INT64_MIN && *y == -1);
    if (overflow) refuse(fmt::format("cannot compute {} {} {}", *x, sign, *y));
    if (sign != '/') return result;
    return *x / *y - (*x % *y != 0 && (*x < 0) != (*y < 0) ? 1 : 0);
  }
  const char* target = sign == '+'   ? "_operator.add"
                       : sign == '-' ? "_operator.sub"
                       : sign == '*' ? "_operator.mul"
                                     : "_operator.floordiv";
  const formats::ValueName result = call(target, {{"a", argument_of(a)}, {"b", argument_of(b)}});
  if (sign == '-' || may_be_negative(a) || may_be_negative(b)) signed_.insert(result.name);
  return result;
}

REFINE_INLINE bool OnnxTranslator::may_be_negative(const GraphInteger& size) const {
  if (const auto* number = std::get_if<std::int64_t>(&size)) return *number < 0;
  return signed_.contains(std::get<formats::ValueName>(size).name);
}

REFINE_INLINE GraphInteger OnnxTranslator::divide(const GraphInteger& a, const GraphInteger& b) {
  if (!may_be_negative(a) && !may_be_negative(b)) return calculate('/', a, b);
  const auto* divisor = std::get_if<std::int64_t>(&b);
  if (!divisor) refuse("divides sizes of which one may be negative");
  constexpr std::int64_t zero = 0, large = std::int64_t{1} << 62;
  if (*divisor < 0) return divide(calculate('-', zero, a), calculate('-', zero, b));
  // Rounded down, a / large is -1 for a negative a, else 0: the quotient of a negative one is rounded up.
  const GraphInteger increase = calculate('*', calculate('/', a, large), *divisor - 1);
  return calculate('/', calculate('-', a, increase), b);
}

REFINE_INLINE void OnnxTranslator::set(formats::ValueName name, std::optional<std::size_t> rank,
                                       bool is_float, std::size_t output) {
  if (output >= node_->outputs.size() || node_->outputs[output].empty()) return;
  values_[node_->outputs[output]] = {.name = std::move(name.name), .rank = rank, .is_float = is_float};
}

REFINE_INLINE void OnnxTranslator::set_sizes(Integers integers, bool is_scalar) {
  if (static_cast<std::int64_t>(integers.size()) > max_sizes)
    refuse(fmt::format("computes a list of more than {} sizes", max_sizes));
  values_[node_->outputs.at(0)] = {
      .rank = is_scalar ? 0 : 1, .integers = std::move(integers), .is_float = false};
}

REFINE_INLINE void OnnxTranslator::set_same() {
  if (input(0).constant) static_cast<void>(tensor(0));  // once: all of its names share the tensor
  const Value copy = input(0);
  values_[node_->outputs.at(0)] = copy;
}

REFINE_INLINE GraphInteger OnnxTranslator::not_one(const GraphInteger& extent) {
  constexpr std::int64_t zero = 0, one = 1;
  if (extent == GraphInteger(one)) refuse("resizes to one pixel by pytorch_half_pixel");
  if (std::holds_alternative<std::int64_t>(extent)) return extent;
  return calculate('+', extent, calculate('/', zero, calculate('-', extent, one)));  // 0 / (extent - 1)
}

/// Pads the last dimensions.
/// \param pads before the first of them, …, after the first of them, …
REFINE_INLINE formats::ValueName OnnxTranslator::zero_padded(formats::ValueName value,
                                                             const std::vector<GraphInteger>& pads,
                                                             double content) {
  Integers reversed;  // LibTorch counts from the last dimension
  const std::size_t dimensions = pads.size() / 2;
  for (std::size_t d = dimensions; d-- > 0;) {
    reversed.push_back(pads[d]);
    reversed.push_back(pads[dimensions + d]);
  }
  return call("aten::constant_pad_nd.default", {{"self", value}, {"pad", reversed}, {"value", content}});
}

// --- operators -----------------------------------------------------------------------------------------------

REFINE_INLINE void OnnxTranslator::unary(const char* target) {
  set(call(target, {{"self", tensor(0)}}), input(0).rank, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::binary(const char* target, bool gives_boolean) {
  const auto a = tensor(0), b = tensor(1);
  std::optional<std::size_t> rank;
  if (input(0).rank && input(1).rank) rank = std::max(*input(0).rank, *input(1).rank);
  const bool is_float = (input(0).is_float || input(1).is_float) && !gives_boolean;
  if (node_->op == "Div" && !is_float) refuse("divides integers");
  set(call(target, {{"self", a}, {node_->op == "Pow" ? "exponent" : "other", b}}), rank, is_float);
}

REFINE_INLINE void OnnxTranslator::variadic(const char* target) {
  formats::ValueName result = tensor(0);
  std::optional<std::size_t> rank = input(0).rank;
  for (std::size_t i = 1; i < node_->inputs.size(); ++i) {
    result = call(target, {{"self", result}, {"other", tensor(i)}});
    rank = rank && input(i).rank ? std::optional(std::max(*rank, *input(i).rank)) : std::nullopt;
  }
  if (node_->op == "Mean") {
    result =
        call("aten::div.Scalar", {{"self", result}, {"other", static_cast<double>(node_->inputs.size())}});
  }
  if (node_->inputs.size() == 1 && node_->op != "Mean") return set_same();
  set(result, rank, input(0).is_float);
}

REFINE_INLINE OnnxTranslator::Window OnnxTranslator::window(const std::vector<std::int64_t>& kernel) {
  const std::size_t dimensions = kernel.size();
  Window result{.strides = list("strides").value_or(std::vector<std::int64_t>(dimensions, 1)),
                .dilations = list("dilations").value_or(std::vector<std::int64_t>(dimensions, 1))};
  const auto pads = list("pads").value_or(std::vector<std::int64_t>(2 * dimensions, 0));
  const std::string automatic = text("auto_pad", "NOTSET");
  if (result.strides.size() != dimensions || result.dilations.size() != dimensions ||
      pads.size() != 2 * dimensions) {
    refuse("has attributes of different lengths");
  }
  for (std::size_t d = 0; d < dimensions; ++d) {
    if (automatic == "NOTSET" || automatic == "VALID") {
      const bool is_valid = automatic == "VALID";
      if (pads[d] < 0 || pads[dimensions + d] < 0) refuse("has negative padding");
      result.begin.emplace_back(is_valid ? 0 : pads[d]);
      result.end.emplace_back(is_valid ? 0 : pads[dimensions + d]);
      result.is_symmetric = result.is_symmetric && result.begin.back() == result.end.back();
      continue;
    }
    if (automatic != "SAME_UPPER" && automatic != "SAME_LOWER") refuse("pads in an unknown way");
    const std::int64_t extent = result.dilations[d] * (kernel[d] - 1) + 1, stride = result.strides[d];
    GraphInteger total = extent - 1;
    if (stride > 1 && extent == 1) {
      total = std::int64_t{0};
    } else if (stride > 1) {
      if (extent < stride) refuse("has windows that are smaller than their distance");
      const GraphInteger size = size_of(tensor(0), static_cast<std::int64_t>(d) + 2);
      const GraphInteger steps =
          calculate('-', calculate('/', calculate('+', size, stride - 1), stride), std::int64_t{1});
      total = calculate('-', calculate('+', calculate('*', steps, stride), extent), size);
    }
    const GraphInteger less = calculate('/', total, std::int64_t{2}), more = calculate('-', total, less);
    result.begin.push_back(automatic == "SAME_UPPER" ? less : more);
    result.end.push_back(automatic == "SAME_UPPER" ? more : less);
    result.is_symmetric = result.is_symmetric && std::holds_alternative<std::int64_t>(total) &&
                          result.begin.back() == result.end.back();
  }
  return result;
}

/// Returns constant integers as an argument.
inline std::vector<GraphInteger> constant_list(const std::vector<std::int64_t>& numbers) {
  return {numbers.begin(), numbers.end()};
}

REFINE_INLINE void OnnxTranslator::convolution() {
  const std::size_t dimensions = rank(1) - 2;
  const bool is_transposed = node_->op == "ConvTranspose";
  if (rank(1) < 3 || dimensions > 3) refuse("has a kernel of another number of dimensions than 1 to 3");
  auto kernel = list("kernel_shape");
  const OnnxTensor* weight = input(1).constant;
  if (!kernel && weight) kernel.emplace(weight->sizes.begin() + 2, weight->sizes.end());
  if (!kernel || kernel->size() != dimensions) refuse("has a kernel of unknown size");
  if (const std::string automatic = text("auto_pad", "NOTSET");
      is_transposed && automatic != "NOTSET" && automatic != "VALID")
    refuse(fmt::format("pads in a way that is not translated ({})", automatic));
  Window w = window(*kernel);
  formats::ValueName x = tensor(0);
  std::vector<GraphInteger> padding = w.begin;
  if (!w.is_symmetric) {
    if (is_transposed) refuse("pads both sides by different numbers");
    std::vector<GraphInteger> pads = w.begin;
    pads.insert(pads.end(), w.end.begin(), w.end.end());
    x = zero_padded(x, pads, 0);
    padding.assign(dimensions, std::int64_t{0});
  }
  Named arguments = {{"input", x}, {"weight", tensor(1)}};
  if (has(2)) arguments.emplace_back("bias", tensor(2));
  arguments.emplace_back("stride", constant_list(w.strides));
  arguments.emplace_back("padding", padding);
  std::string target = fmt::format("aten::conv{}d.default", dimensions);
  if (is_transposed) {
    if (attribute("output_shape")) refuse("has an output shape");
    arguments.emplace_back(
        "output_padding",
        constant_list(list("output_padding").value_or(std::vector<std::int64_t>(dimensions, 0))));
    target = fmt::format("aten::conv_transpose{}d.{}", dimensions, dimensions == 1 ? "default" : "input");
  }
  arguments.emplace_back("groups", integer("group", 1));
  arguments.emplace_back("dilation", constant_list(w.dilations));
  set(call(target, std::move(arguments)), dimensions + 2, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::pooling() {
  const bool is_max = node_->op == "MaxPool";
  const auto kernel = list("kernel_shape");
  if (!kernel || kernel->size() != 2) refuse("does not work on images");
  if (is_max && node_->outputs.size() > 1 && !node_->outputs[1].empty()) refuse("returns positions");
  if (is_max && integer("storage_order", 0) != 0) refuse("counts columns first");
  const bool ceil = integer("ceil_mode", 0) != 0;
  bool counts = !is_max && integer("count_include_pad", 0) != 0;
  Window w = window(*kernel);
  formats::ValueName x = tensor(0);
  Integers padding = w.begin;
  bool is_small = w.is_symmetric;  // LibTorch pads by at most half a window
  for (std::size_t d = 0; w.is_symmetric && d < 2; ++d)
    is_small = is_small && std::get<std::int64_t>(w.begin[d]) * 2 <= (*kernel)[d];
  std::optional<formats::ValueName> weights;  // how many pixels of a window are not padding
  Named common = {{"kernel_size", constant_list(*kernel)}, {"stride", constant_list(w.strides)}};
  if (!is_small) {
    Integers pads = w.begin;
    pads.insert(pads.end(), w.end.begin(), w.end.end());
    padding = {std::int64_t{0}, std::int64_t{0}};
    // Behind explicit padding, LibTorch keeps windows that begin in it.
    if (ceil) refuse("pads both sides by different numbers or by more than half a window, with ceil_mode");
    if (!is_max && !counts) {
      weights = zero_padded(call("aten::ones_like.default", {{"self", x}}), pads, 0);
    }
    x = zero_padded(x, pads, is_max ? -std::numeric_limits<double>::infinity() : 0);
  }
  common.emplace_back("padding", padding);
  if (is_max) common.emplace_back("dilation", constant_list(w.dilations));
  common.emplace_back("ceil_mode", ceil);
  if (!is_max) {
    if (w.dilations != std::vector<std::int64_t>{1, 1}) refuse("has dilations");
    common.emplace_back("count_include_pad", counts);
  }
  const auto pool = [&](const formats::ValueName& images) {
    Named arguments = {{"self", images}};
    arguments.insert(arguments.end(), common.begin(), common.end());
    return call(is_max ? "aten::max_pool2d.default" : "aten::avg_pool2d.default", std::move(arguments));
  };
  formats::ValueName result = pool(x);
  if (weights) result = call("aten::div.Tensor", {{"self", result}, {"other", pool(*weights)}});
  set(result, 4, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::normalization() {
  const double epsilon = real("epsilon", 1e-5);
  constexpr double momentum = 0.1;  // not used
  if (node_->op == "InstanceNormalization") {
    return set(call("aten::instance_norm.default", {{"input", tensor(0)},
                                                    {"weight", tensor(1)},
                                                    {"bias", tensor(2)},
                                                    {"running_mean", std::monostate()},
                                                    {"running_var", std::monostate()},
                                                    {"use_input_stats", true},
                                                    {"momentum", momentum},
                                                    {"eps", epsilon},
                                                    {"cudnn_enabled", false}}),
               input(0).rank, input(0).is_float);
  }
  real("momentum", 0);
  if (integer("training_mode", 0) != 0) refuse("is in training mode");
  for (std::size_t i = 1; i < node_->outputs.size(); ++i) {
    if (!node_->outputs[i].empty()) refuse("returns statistics, as in training mode");
  }
  set(call("aten::batch_norm.default", {{"input", tensor(0)},
                                        {"weight", tensor(1)},
                                        {"bias", tensor(2)},
                                        {"running_mean", tensor(3)},
                                        {"running_var", tensor(4)},
                                        {"training", false},
                                        {"momentum", momentum},
                                        {"eps", epsilon},
                                        {"cudnn_enabled", false}}),
      input(0).rank, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::layer_normalization() {
  const auto* scale = input(1).constant;
  const std::int64_t first = axis(integer("axis", -1), rank(0));
  integer("stash_type", 1);
  if (!scale || scale->sizes.size() != rank(0) - static_cast<std::size_t>(first))
    refuse("has a scale of another shape than what it normalizes");
  Named arguments = {
      {"input", tensor(0)}, {"normalized_shape", constant_list(scale->sizes)}, {"weight", tensor(1)}};
  if (has(2)) {
    arguments.emplace_back("bias", tensor(2));
  } else {
    arguments.emplace_back("bias", std::monostate());
  }
  arguments.emplace_back("eps", real("epsilon", 1e-5));
  set(call("aten::layer_norm.default", std::move(arguments)), input(0).rank, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::gemm() {
  const double alpha = real("alpha", 1), beta = real("beta", 1);
  const bool transposes_a = integer("transA", 0) != 0, transposes_b = integer("transB", 0) != 0;
  const bool adds = has(2) && beta != 0;
  if (alpha == 1 && !transposes_a && transposes_b && (!adds || (beta == 1 && rank(2) == 1))) {
    Named arguments = {{"input", tensor(0)}, {"weight", tensor(1)}};
    if (adds) arguments.emplace_back("bias", tensor(2));
    return set(call("aten::linear.default", std::move(arguments)), 2, input(0).is_float);
  }
  const auto turned = [&](std::size_t i, bool yes) {
    return yes ? call("aten::t.default", {{"self", tensor(i)}}) : tensor(i);
  };
  const auto a = turned(0, transposes_a), b = turned(1, transposes_b);
  formats::ValueName result = call("aten::mm.default", {{"self", a}, {"mat2", b}});
  if (alpha != 1) result = call("aten::mul.Scalar", {{"self", result}, {"other", alpha}});
  if (adds) {
    result = call("aten::add.Tensor", {{"self", result}, {"other", tensor(2)}, {"alpha", beta}});
  }
  set(result, 2, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::matmul() {
  std::optional<std::size_t> result;
  const auto &a = input(0).rank, &b = input(1).rank;
  if (a && b && *a >= 2 && *b >= 2) result = std::max(*a, *b);
  set(call("aten::matmul.default", {{"self", tensor(0)}, {"other", tensor(1)}}), result, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::reduction(const char* target) {
  auto dimensions = axes(1);
  const bool keep = integer("keepdims", 1) != 0, does_nothing = integer("noop_with_empty_axes", 0) != 0;
  if ((!dimensions || dimensions->empty()) && does_nothing) return set_same();
  if (!dimensions || dimensions->empty()) {
    dimensions.emplace();
    for (std::size_t d = 0; d < rank(0); ++d) dimensions->push_back(static_cast<std::int64_t>(d));
  }
  std::optional<std::size_t> result = input(0).rank;
  if (result && !keep) {
    if (dimensions->size() > *result) refuse("has too many axes");
    *result -= dimensions->size();
  }
  Named arguments = {{"self", tensor(0)}};
  if (node_->op == "ReduceProd") {
    if (dimensions->size() != 1) refuse("multiplies along several axes");
    arguments.emplace_back("dim", dimensions->front());
  } else {
    if (node_->op == "ReduceL2") arguments.emplace_back("ord", std::int64_t{2});
    arguments.emplace_back("dim", constant_list(*dimensions));
  }
  arguments.emplace_back("keepdim", keep);
  set(call(target, std::move(arguments)), result, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::reshape() {
  Integers target = sizes(1);
  const bool allows_zero = integer("allowzero", 0) != 0;
  const formats::ValueName x = tensor(0);
  for (std::size_t d = 0; d < target.size() && !allows_zero; ++d) {
    if (target[d] == GraphInteger(std::int64_t{0})) target[d] = size_of(x, static_cast<std::int64_t>(d));
  }
  const std::size_t result = target.size();
  set(call("aten::reshape.default", {{"self", x}, {"shape", std::move(target)}}), result, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::flatten() {
  const std::size_t dimensions = rank(0);
  const std::int64_t given = integer("axis", 1), count = static_cast<std::int64_t>(dimensions);
  const std::int64_t at = given < 0 ? given + count : given;
  if (at < 0 || at > count) refuse("has an axis out of range");
  formats::ValueName x = tensor(0);
  if (at == 0 || at == count) {
    const Integers shape =
        at == 0 ? Integers{std::int64_t{1}, std::int64_t{-1}} : Integers{std::int64_t{-1}, std::int64_t{1}};
    return set(call("aten::reshape.default", {{"self", x}, {"shape", shape}}), 2, input(0).is_float);
  }
  if (at > 1) {
    x = call("aten::flatten.using_ints", {{"self", x}, {"start_dim", std::int64_t{0}}, {"end_dim", at - 1}});
  }
  if (count - at > 1) {
    x = call("aten::flatten.using_ints",
             {{"self", x}, {"start_dim", std::int64_t{1}}, {"end_dim", std::int64_t{-1}}});
  }
  set(x, 2, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::transpose() {
  auto order = list("perm");
  if (!order) {
    order.emplace();
    for (std::size_t d = rank(0); d-- > 0;) order->push_back(static_cast<std::int64_t>(d));
  }
  const std::size_t result = order->size();
  set(call("aten::permute.default", {{"self", tensor(0)}, {"dims", constant_list(*order)}}), result,
      input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::concatenate() {
  std::vector<formats::ValueName> tensors;
  const std::int64_t along = integer("axis", 0);
  bool is_float = false;
  for (std::size_t i = 0; i < node_->inputs.size(); ++i) {
    tensors.push_back(tensor(i));
    is_float = is_float || input(i).is_float;
  }
  set(call("aten::cat.default", {{"tensors", std::move(tensors)}, {"dim", along}}), input(0).rank, is_float);
}

REFINE_INLINE void OnnxTranslator::split() {
  const std::int64_t along = integer("axis", 0);
  const std::size_t count = node_->outputs.size();
  const std::int64_t stated = integer("num_outputs", static_cast<std::int64_t>(count));
  if (stated != static_cast<std::int64_t>(count)) refuse("has another number of outputs than it states");
  const formats::ValueName x = tensor(0);
  std::vector<formats::ValueName> parts;
  if (has(1)) {
    const Integers lengths = sizes(1);
    if (lengths.size() != count) refuse("has another number of outputs than of lengths");
    parts = call_list("aten::split_with_sizes.default",
                      {{"self", x}, {"split_sizes", lengths}, {"dim", along}}, count);
  } else {
    parts = call_list("aten::chunk.default",
                      {{"self", x}, {"chunks", static_cast<std::int64_t>(count)}, {"dim", along}}, count);
  }
  const auto dimensions = input(0).rank;
  const bool is_float = input(0).is_float;
  for (std::size_t i = 0; i < count; ++i) set(parts[i], dimensions, is_float, i);
}

REFINE_INLINE void OnnxTranslator::slice() {
  const Integers starts = sizes(1), ends = sizes(2);
  std::vector<std::int64_t> along, steps(starts.size(), 1);
  if (has(3)) {
    const auto given = constants(3);
    if (!given) refuse("has axes that are not constant");
    along = *given;
  } else {
    for (std::size_t d = 0; d < starts.size(); ++d) along.push_back(static_cast<std::int64_t>(d));
  }
  if (has(4)) {
    const auto given = constants(4);
    if (!given) refuse("has steps that are not constant");
    steps = *given;
  }
  if (ends.size() != starts.size() || along.size() != starts.size() || steps.size() != starts.size())
    refuse("has limits of different lengths");
  formats::ValueName x = tensor(0);
  for (std::size_t i = 0; i < starts.size(); ++i) {
    if (steps[i] < 0) {
      const auto *start = std::get_if<std::int64_t>(&starts[i]), *end = std::get_if<std::int64_t>(&ends[i]);
      constexpr std::int64_t far = std::numeric_limits<std::int32_t>::max();
      if (steps[i] != -1 || !start || !end || (*start != -1 && *start < far - 1) || *end > -far)
        refuse("walks backwards over a part of a dimension");
      x = call("aten::flip.default", {{"self", x}, {"dims", Integers{along[i]}}});
      continue;
    }
    x = call("aten::slice.Tensor", {{"self", x},
                                    {"dim", along[i]},
                                    {"start", argument_of(starts[i])},
                                    {"end", argument_of(ends[i])},
                                    {"step", steps[i]}});
  }
  set(x, input(0).rank, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::gather() {
  const std::int64_t along = axis(integer("axis", 0), rank(0));
  const auto indices = constants(1);
  const std::size_t of_index = rank(1), result = rank(0) - 1 + of_index;
  const bool is_float = input(0).is_float;
  if (of_index == 0 && indices) {
    return set(call("aten::select.int", {{"self", tensor(0)}, {"dim", along}, {"index", indices->at(0)}}),
               result, is_float);
  }
  formats::ValueName index = tensor(1);
  index = call("aten::to.dtype", {{"self", index}, {"dtype", ElementType::int64}});
  std::vector<std::optional<formats::ValueName>> list(static_cast<std::size_t>(along));
  list.emplace_back(index);
  set(call("aten::index.Tensor", {{"self", tensor(0)}, {"indices", std::move(list)}}), result, is_float);
}

REFINE_INLINE void OnnxTranslator::squeeze() {
  const auto dimensions = axes(1);
  if (!dimensions) refuse("does not name its axes");
  if (dimensions->size() > rank(0)) refuse("has too many axes");
  const std::size_t result = rank(0) - dimensions->size();
  set(call("aten::squeeze.dims", {{"self", tensor(0)}, {"dim", constant_list(*dimensions)}}), result,
      input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::unsqueeze() {
  const auto given = axes(1);
  if (!given) refuse("does not name its axes");
  const std::size_t result = rank(0) + given->size();
  std::vector<std::int64_t> sorted;
  for (const std::int64_t each : *given) sorted.push_back(axis(each, result));
  std::ranges::sort(sorted);
  formats::ValueName x = tensor(0);
  for (const std::int64_t each : sorted) x = call("aten::unsqueeze.default", {{"self", x}, {"dim", each}});
  set(x, result, input(0).is_float);
}

/// Returns the element type with ONNX's number.
inline std::optional<ElementType> type_of_number(std::int64_t number) {
  for (const ElementType each :
       {ElementType::float32, ElementType::uint8, ElementType::int8, ElementType::int16, ElementType::int32,
        ElementType::int64, ElementType::boolean, ElementType::float16, ElementType::float64,
        ElementType::bfloat16}) {
    if (formats::detail::onnx::type_number(each) == number) return each;
  }
  return std::nullopt;
}

inline bool is_float_type(ElementType type) {
  return formats::element_name(type).find("float") != std::string_view::npos;
}

REFINE_INLINE void OnnxTranslator::cast() {
  const auto type = type_of_number(integer("to", 0));
  integer("saturate", 1);
  if (!type) refuse("converts to a type that refine does not compute with");
  set(call("aten::to.dtype", {{"self", tensor(0)}, {"dtype", *type}}), input(0).rank, is_float_type(*type));
}

REFINE_INLINE void OnnxTranslator::clip() {
  Named arguments = {{"self", tensor(0)}};
  for (std::size_t i = 1; i <= 2; ++i) {
    if (!has(i)) continue;
    const auto limit = constant_number(i);
    if (!limit) refuse("has a limit that is not constant");
    arguments.emplace_back(i == 1 ? "min" : "max", *limit);
  }
  if (arguments.size() == 1) return set_same();
  set(call("aten::clamp.default", std::move(arguments)), input(0).rank, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::expand() {
  Integers target = sizes(1);
  const std::size_t own = rank(0);
  while (target.size() < own) target.insert(target.begin(), std::int64_t{1});
  // 1 keeps the extent of a dimension.
  for (std::size_t d = target.size() - own; d < target.size(); ++d) {
    if (target[d] == GraphInteger(std::int64_t{1})) target[d] = std::int64_t{-1};
  }
  const std::size_t result = target.size();
  set(call("aten::expand.default", {{"self", tensor(0)}, {"size", std::move(target)}}), result,
      input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::pad() {
  const std::size_t dimensions = rank(0);
  const std::string mode = text("mode", "constant");
  Integers given = sizes(1), pads(2 * dimensions, std::int64_t{0});
  std::vector<std::int64_t> along;
  if (has(3)) {
    const auto axes = constants(3);
    if (!axes) refuse("has axes that are not constant");
    along = *axes;
  } else {
    for (std::size_t d = 0; d < dimensions; ++d) along.push_back(static_cast<std::int64_t>(d));
  }
  if (given.size() != 2 * along.size()) refuse("has another number of paddings than of axes");
  for (std::size_t i = 0; i < along.size(); ++i) {
    const auto d = static_cast<std::size_t>(axis(along[i], dimensions));
    pads[d] = given[i];
    pads[dimensions + d] = given[along.size() + i];
  }
  double content = 0;
  if (has(2)) {
    const auto number = constant_number(2);
    if (!number) refuse("pads with a value that is not constant");
    content = *number;
  }
  if (mode == "constant") return set(zero_padded(tensor(0), pads, content), dimensions, input(0).is_float);
  if (mode != "reflect" && mode != "edge") refuse("pads in a way that is not translated");
  // LibTorch repeats pixels along the last two dimensions.
  Integers reversed;
  for (std::size_t d = dimensions; d-- > 0;) {
    const bool is_empty =
        pads[d] == GraphInteger(std::int64_t{0}) && pads[dimensions + d] == GraphInteger(std::int64_t{0});
    if (d + 2 >= dimensions) {
      reversed.push_back(pads[d]);
      reversed.push_back(pads[dimensions + d]);
    } else if (!is_empty) {
      refuse("repeats pixels along another dimension than height and width");
    }
  }
  set(call("aten::pad.default", {{"self", tensor(0)},
                                 {"pad", std::move(reversed)},
                                 {"mode", std::string(mode == "edge" ? "replicate" : "reflect")}}),
      dimensions, input(0).is_float);
}

REFINE_INLINE void OnnxTranslator::resize() {
  const std::string mode = text("mode", "nearest"),
                    coordinates = text("coordinate_transformation_mode", "half_pixel");
  const std::string nearest = text("nearest_mode", "round_prefer_floor");
  if (integer("antialias", 0) != 0 || integer("exclude_outside", 0) != 0 || attribute("axes"))
    refuse("has options that are not translated");
  const auto ratio = text("keep_aspect_ratio_policy", "stretch");
  const double cubic = real("cubic_coeff_a", -0.75);
  real("extrapolation_value", 0);
  if (ratio != "stretch" || rank(0) != 4) refuse("does not stretch images");
  const bool is_aligned = coordinates == "align_corners";
  const bool is_centred = coordinates == "half_pixel" || coordinates == "pytorch_half_pixel";
  std::string target;
  if (mode == "nearest" && coordinates == "asymmetric" && nearest == "floor") {
    target = "aten::upsample_nearest2d.vec";
  } else if (mode == "linear" && (is_aligned || is_centred)) {
    target = "aten::upsample_bilinear2d.vec";
  } else if (mode == "cubic" && (is_aligned || is_centred) && cubic == -0.75) {
    target = "aten::upsample_bicubic2d.vec";
  } else {
    refuse(fmt::format("resizes in a way that is not translated ({}, {})", mode, coordinates));
  }
  // For one pixel, it takes the first of the image, and LibTorch the one in the middle.
  const bool takes_first = coordinates == "pytorch_half_pixel";
  Named arguments = {{"input", tensor(0)}};
  if (has(3)) {
    const Integers size = sizes(3);
    if (size.size() != 4) refuse("has sizes of another number of dimensions");
    arguments.emplace_back("output_size", takes_first ? Integers{not_one(size[2]), not_one(size[3])}
                                                      : Integers{size[2], size[3]});
    if (mode != "nearest") arguments.emplace_back("align_corners", is_aligned);
    arguments.emplace_back("scale_factors", std::monostate());
    const formats::ValueName resized = call(target, std::move(arguments));
    // A program that asks for another number of channels ends here.
    Integers all = {size_of(resized, 0), size[1], size[2], size[3]};
    return set(call("aten::view.default", {{"self", resized}, {"size", std::move(all)}}), 4,
               input(0).is_float);
  }
  const auto* scales = input(2).constant;
  const auto numbers = scales ? scales->reals() : std::nullopt;
  if (!numbers || numbers->size() != 4 || (*numbers)[0] != 1 || (*numbers)[1] != 1)
    refuse("has scales that are not constant, or not of height and width");
  arguments.emplace_back("output_size", std::monostate());
  if (mode != "nearest") arguments.emplace_back("align_corners", is_aligned);
  arguments.emplace_back("scale_factors", std::vector<double>{(*numbers)[2], (*numbers)[3]});
  formats::ValueName resized = call(target, std::move(arguments));
  if (takes_first && ((*numbers)[2] < 1 || (*numbers)[3] < 1)) {
    Integers all;
    for (std::size_t d = 0; d < 4; ++d) {
      const GraphInteger extent = size_of(resized, static_cast<std::int64_t>(d));
      all.push_back((*numbers)[d] < 1 ? not_one(extent) : extent);
    }
    resized = call("aten::view.default", {{"self", resized}, {"size", std::move(all)}});
  }
  set(resized, 4, input(0).is_float);
}

/// Returns a tensor of one number or a list of them.
template <typename Number>
OnnxTensor tensor_of(ElementType type, const std::vector<Number>& numbers, bool is_scalar) {
  OnnxTensor tensor{.type = type};
  if (!is_scalar) tensor.sizes = {static_cast<std::int64_t>(numbers.size())};
  tensor.bytes.resize(numbers.size() * sizeof(Number));
  if (!numbers.empty()) std::memcpy(tensor.bytes.data(), numbers.data(), tensor.bytes.size());
  return tensor;
}

/// Returns the integers of a constant that may be a list of sizes.
inline std::optional<std::vector<GraphInteger>> sizes_of(const OnnxTensor& tensor) {
  const bool is_wide = tensor.type == ElementType::int64 || tensor.type == ElementType::int32;
  if (tensor.sizes.size() > 1 || tensor.count() > max_sizes || !is_wide) return std::nullopt;
  const auto numbers = tensor.integers();
  return numbers ? std::optional(constant_list(*numbers)) : std::nullopt;
}

REFINE_INLINE void OnnxTranslator::constant() {
  const std::string& name = node_->outputs.at(0);
  OnnxTensor& content = made_[name];
  if (const auto* value = attribute("value")) {
    const auto* found = std::get_if<OnnxTensor>(value);
    if (!found) refuse("has a value that is not a tensor");
    content = *found;
  } else if (attribute("value_float")) {
    content =
        tensor_of(ElementType::float32, std::vector<float>{static_cast<float>(real("value_float", 0))}, true);
  } else if (attribute("value_int")) {
    content = tensor_of(ElementType::int64, std::vector<std::int64_t>{integer("value_int", 0)}, true);
  } else if (const auto numbers = list("value_ints")) {
    content = tensor_of(ElementType::int64, *numbers, false);
  } else if (const auto* reals = attribute("value_floats")) {
    const auto* values = std::get_if<std::vector<float>>(reals);
    if (!values) refuse("has a value that is not a list of numbers");
    content = tensor_of(ElementType::float32, *values, false);
  } else {
    refuse("has no value that refine reads");
  }
  values_[name] = {.rank = content.sizes.size(),
                   .integers = sizes_of(content),
                   .constant = &content,
                   .is_float = is_float_type(content.type)};
}

REFINE_INLINE void OnnxTranslator::constant_of_shape() {
  OnnxTensor content = tensor_of(ElementType::float32, std::vector<float>{0}, false);
  if (const auto* value = attribute("value")) {
    const auto* found = std::get_if<OnnxTensor>(value);
    if (!found || found->count() != 1) refuse("has a value that is not one number");
    content = *found;
  }
  const Integers target = sizes(0);
  const auto number = content.integers();
  const auto* length = target.size() == 1 ? std::get_if<std::int64_t>(&target[0]) : nullptr;
  if (number && length && *length >= 0 && *length <= max_sizes && content.type == ElementType::int64)
    return set_sizes(Integers(static_cast<std::size_t>(*length), number->at(0)), false);
  const auto real = content.reals();
  if (!real) refuse("has a value of another type");
  set(call("aten::full.default", {{"size", target},
                                  {"fill_value", real->at(0)},
                                  {"dtype", content.type},
                                  {"device", formats::GraphDevice{"cpu"}}}),
      target.size(), is_float_type(content.type));
}

REFINE_INLINE void OnnxTranslator::shape() {
  const auto dimensions = static_cast<std::int64_t>(rank(0));
  const auto limit = [&](const char* name, std::int64_t otherwise) {
    const std::int64_t given = integer(name, otherwise);
    return std::clamp<std::int64_t>(given < 0 ? given + dimensions : given, 0, dimensions);
  };
  const std::int64_t start = limit("start", 0), end = limit("end", dimensions);
  Integers result;
  if (const OnnxTensor* known = input(0).constant) {
    for (std::int64_t d = start; d < end; ++d)
      result.emplace_back(known->sizes.at(static_cast<std::size_t>(d)));
    return set_sizes(std::move(result), false);
  }
  if (const auto& list = input(0).integers) {
    for (std::int64_t d = start; d < end; ++d) result.emplace_back(static_cast<std::int64_t>(list->size()));
    return set_sizes(std::move(result), false);
  }
  const formats::ValueName x = tensor(0);
  for (std::int64_t d = start; d < end; ++d) result.push_back(size_of(x, d));
  set_sizes(std::move(result), false);
}

REFINE_INLINE void OnnxTranslator::hard_sigmoid() {
  const bool is_swish = node_->op == "HardSwish";
  const double slope = is_swish ? 1.0 / 6 : real("alpha", 0.2), centre = is_swish ? 0.5 : real("beta", 0.5);
  constexpr double rounding = 1e-6;
  if (std::abs(slope - 1.0 / 6) < rounding && centre == 0.5)
    return unary(is_swish ? "aten::hardswish.default" : "aten::hardsigmoid.default");
  const auto scaled = call("aten::mul.Scalar", {{"self", tensor(0)}, {"other", slope}});
  const auto moved = call("aten::add.Scalar", {{"self", scaled}, {"other", centre}});
  set(call("aten::clamp.default", {{"self", moved}, {"min", 0.0}, {"max", 1.0}}), input(0).rank,
      input(0).is_float);
}

/// Translates a node whose inputs are all lists of sizes.
/// \return false if it is another one
REFINE_INLINE bool OnnxTranslator::translate_sizes() {
  const std::string& op = node_->op;
  static const std::set<std::string_view> known = {"Add",    "Sub",   "Mul",       "Div",     "Concat",
                                                   "Gather", "Cast",  "Unsqueeze", "Squeeze", "Slice",
                                                   "Equal",  "Where", "Identity",  "Reshape", "Mod"};
  if (!known.contains(op) || node_->inputs.empty()) return false;
  for (std::size_t i = 0; i < node_->inputs.size(); ++i) {
    if (has(i) && !input(i).integers) return false;
  }
  const auto scalar = [&](std::size_t i) { return input(i).rank == 0U; };
  if (op == "Concat") {
    Integers all;
    integer("axis", 0);
    for (std::size_t i = 0; i < node_->inputs.size(); ++i) {
      if (scalar(i)) return false;
      all.insert(all.end(), input(i).integers->begin(), input(i).integers->end());
      if (static_cast<std::int64_t>(all.size()) > max_sizes) break;  // refused below
    }
    set_sizes(std::move(all), false);
    return true;
  }
  const Integers first = *input(0).integers;
  if (op == "Mod" && integer("fmod", 0) != 0) return false;
  if (op == "Cast") {
    const auto type = type_of_number(integer("to", 0));
    if (!type || is_float_type(*type) || *type == ElementType::boolean) return false;
    // A narrower type changes numbers that it cannot hold. Extents fit into int32.
    const std::int64_t limit = *type == ElementType::int64   ? std::numeric_limits<std::int64_t>::max()
                               : *type == ElementType::int32 ? std::numeric_limits<std::int32_t>::max()
                                                             : 0;
    for (const GraphInteger& each : first) {
      const auto* number = std::get_if<std::int64_t>(&each);
      if (number ? *number > limit || *number < -limit : limit == 0) return false;
    }
    set_sizes(first, scalar(0));
    return true;
  }
  if (op == "Identity") {
    set_sizes(first, scalar(0));
    return true;
  }
  if (op == "Reshape") {  // to a list or a number
    const auto target = constants(1);
    integer("allowzero", 0);
    if (!target || target->size() > 1 || (target->empty() && first.size() != 1)) return false;
    if (!target->empty() && target->front() != -1 &&
        target->front() != static_cast<std::int64_t>(first.size()))
      return false;
    set_sizes(first, target->empty());
    return true;
  }
  if (op == "Unsqueeze" || op == "Squeeze") {
    const bool is_unsqueeze = op == "Unsqueeze";
    if (is_unsqueeze ? !scalar(0) : scalar(0) || first.size() != 1) return false;
    static_cast<void>(axes(1));
    set_sizes(first, !is_unsqueeze);
    return true;
  }
  if (op == "Gather") {
    const auto indices = constants(1);
    if (!indices || scalar(0) || integer("axis", 0) != 0) return false;
    Integers chosen;
    const auto count = static_cast<std::int64_t>(first.size());
    for (const std::int64_t each : *indices) {
      const std::int64_t position = each < 0 ? each + count : each;
      if (position < 0 || position >= count) refuse("has an index out of range");
      chosen.push_back(first[static_cast<std::size_t>(position)]);
    }
    set_sizes(std::move(chosen), scalar(1));
    return true;
  }
  if (op == "Slice") {
    const auto starts = constants(1), ends = constants(2);
    const auto steps = has(4) ? constants(4) : std::optional(std::vector<std::int64_t>{1});
    if (!starts || !ends || !steps || starts->size() != 1 || ends->size() != 1 || steps->size() != 1 ||
        steps->front() < 1 || scalar(0)) {
      return false;
    }
    const auto count = static_cast<std::int64_t>(first.size());
    const auto limit = [&](std::int64_t given) {
      return std::clamp<std::int64_t>(given < 0 ? given + count : given, 0, count);
    };
    Integers part;
    for (std::int64_t d = limit(starts->front()); d < limit(ends->front()); d += steps->front()) {
      part.push_back(first[static_cast<std::size_t>(d)]);
      if (steps->front() > count) break;
    }
    set_sizes(std::move(part), false);
    return true;
  }
  if (node_->inputs.size() < 2) return false;
  const Integers second = *input(1).integers;
  const std::size_t count = std::max(first.size(), second.size());
  const auto element = [&](const Integers& list, std::size_t i) -> const GraphInteger& {
    return list.size() == 1 ? list[0] : list.at(i);
  };
  if ((first.size() != 1 && first.size() != count) || (second.size() != 1 && second.size() != count))
    return false;
  Integers result;
  if (op == "Where") {
    const auto conditions = constants(0);
    const Integers third = *input(2).integers;
    const std::size_t all = std::max(count, third.size());
    if (!conditions || (third.size() != 1 && third.size() != all) ||
        (second.size() != 1 && second.size() != all) || (first.size() != 1 && first.size() != all)) {
      return false;
    }
    for (std::size_t i = 0; i < all; ++i)
      result.push_back((*conditions)[first.size() == 1 ? 0 : i] != 0 ? element(second, i)
                                                                     : element(third, i));
    set_sizes(std::move(result), scalar(0) && scalar(1) && scalar(2));
    return true;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const GraphInteger &a = element(first, i), &b = element(second, i);
    if (op == "Mod") {
      result.push_back(calculate('-', a, calculate('*', calculate('/', a, b), b)));
      continue;
    }
    if (op != "Equal") {
      result.push_back(op == "Div" ? divide(a, b)
                                   : calculate(op == "Add"   ? '+'
                                               : op == "Sub" ? '-'
                                                             : '*',
                                               a, b));
      continue;
    }
    const auto *x = std::get_if<std::int64_t>(&a), *y = std::get_if<std::int64_t>(&b);
    if (x && y) {
      result.emplace_back(std::int64_t{*x == *y});
    } else if ((x && *x < 0 && !may_be_negative(b)) || (y && *y < 0 && !may_be_negative(a)) || a == b) {
      result.emplace_back(std::int64_t{a == b});
    } else {
      refuse("compares sizes");
    }
  }
  set_sizes(std::move(result), scalar(0) && scalar(1));
  return true;
}

REFINE_INLINE const std::map<std::string, OnnxTranslator::Handler>& OnnxTranslator::handlers() {
  using T = OnnxTranslator;
  static const std::map<std::string, Handler> all = {
      {"Abs", [](T& t) { t.unary("aten::abs.default"); }},
      {"Add", [](T& t) { t.binary("aten::add.Tensor"); }},
      {"And", [](T& t) { t.binary("aten::logical_and.default", true); }},
      {"ArgMax",
       [](T& t) {
         const std::int64_t along = t.axis(t.integer("axis", 0), t.rank(0));
         const bool keep = t.integer("keepdims", 1) != 0;
         if (t.integer("select_last_index", 0) != 0) t.refuse("chooses the last of several");
         t.set(t.call("aten::argmax.default", {{"self", t.tensor(0)}, {"dim", along}, {"keepdim", keep}}),
               t.rank(0) - (keep ? 0 : 1), false);
       }},
      {"AveragePool", [](T& t) { t.pooling(); }},
      {"BatchNormalization", [](T& t) { t.normalization(); }},
      {"Cast", [](T& t) { t.cast(); }},
      {"Ceil", [](T& t) { t.unary("aten::ceil.default"); }},
      {"Clip", [](T& t) { t.clip(); }},
      {"Concat", [](T& t) { t.concatenate(); }},
      {"Constant", [](T& t) { t.constant(); }},
      {"ConstantOfShape", [](T& t) { t.constant_of_shape(); }},
      {"Conv", [](T& t) { t.convolution(); }},
      {"ConvTranspose", [](T& t) { t.convolution(); }},
      {"Cos", [](T& t) { t.unary("aten::cos.default"); }},
      {"DepthToSpace",
       [](T& t) {
         if (t.text("mode", "DCR") != "CRD") t.refuse("orders pixels in a way that is not translated");
         t.set(t.call("aten::pixel_shuffle.default",
                      {{"self", t.tensor(0)}, {"upscale_factor", t.integer("blocksize", 1)}}),
               4, t.input(0).is_float);
       }},
      {"Div", [](T& t) { t.binary("aten::div.Tensor"); }},
      {"Dropout",
       [](T& t) {
         t.integer("seed", 0);
         const auto training = t.has(2) ? t.constant_number(2) : std::optional(0.0);
         if (training != 0.0) t.refuse("is in training mode");
         if (t.node_->outputs.size() > 1 && !t.node_->outputs[1].empty()) t.refuse("returns its mask");
         t.set_same();
       }},
      {"Einsum",
       [](T& t) {
         std::vector<formats::ValueName> tensors;
         for (std::size_t i = 0; i < t.node_->inputs.size(); ++i) tensors.push_back(t.tensor(i));
         t.set(t.call("aten::einsum.default",
                      {{"equation", t.text("equation", "")}, {"tensors", std::move(tensors)}}),
               std::nullopt, t.input(0).is_float);
       }},
      {"Elu",
       [](T& t) {
         t.set(t.call("aten::elu.default", {{"self", t.tensor(0)}, {"alpha", t.real("alpha", 1)}}),
               t.input(0).rank, t.input(0).is_float);
       }},
      {"Equal", [](T& t) { t.binary("aten::eq.Tensor", true); }},
      {"Erf", [](T& t) { t.unary("aten::erf.default"); }},
      {"Exp", [](T& t) { t.unary("aten::exp.default"); }},
      {"Expand", [](T& t) { t.expand(); }},
      {"Flatten", [](T& t) { t.flatten(); }},
      {"Floor", [](T& t) { t.unary("aten::floor.default"); }},
      {"Gather", [](T& t) { t.gather(); }},
      {"Gelu",
       [](T& t) {
         t.set(t.call("aten::gelu.default",
                      {{"self", t.tensor(0)}, {"approximate", t.text("approximate", "none")}}),
               t.input(0).rank, t.input(0).is_float);
       }},
      {"Gemm", [](T& t) { t.gemm(); }},
      {"GlobalAveragePool",
       [](T& t) {
         Integers dimensions;
         for (std::size_t d = 2; d < t.rank(0); ++d) dimensions.emplace_back(static_cast<std::int64_t>(d));
         t.set(t.call("aten::mean.dim", {{"self", t.tensor(0)}, {"dim", dimensions}, {"keepdim", true}}),
               t.rank(0), t.input(0).is_float);
       }},
      {"GlobalMaxPool",
       [](T& t) {
         Integers dimensions;
         for (std::size_t d = 2; d < t.rank(0); ++d) dimensions.emplace_back(static_cast<std::int64_t>(d));
         t.set(t.call("aten::amax.default", {{"self", t.tensor(0)}, {"dim", dimensions}, {"keepdim", true}}),
               t.rank(0), t.input(0).is_float);
       }},
      {"Greater", [](T& t) { t.binary("aten::gt.Tensor", true); }},
      {"GreaterOrEqual", [](T& t) { t.binary("aten::ge.Tensor", true); }},
      {"HardSigmoid", [](T& t) { t.hard_sigmoid(); }},
      {"HardSwish", [](T& t) { t.hard_sigmoid(); }},
      {"Identity", [](T& t) { t.set_same(); }},
      {"InstanceNormalization", [](T& t) { t.normalization(); }},
      {"LayerNormalization", [](T& t) { t.layer_normalization(); }},
      {"LeakyRelu",
       [](T& t) {
         t.set(t.call("aten::leaky_relu.default",
                      {{"self", t.tensor(0)}, {"negative_slope", t.real("alpha", 0.01)}}),
               t.input(0).rank, t.input(0).is_float);
       }},
      {"Less", [](T& t) { t.binary("aten::lt.Tensor", true); }},
      {"LessOrEqual", [](T& t) { t.binary("aten::le.Tensor", true); }},
      {"Log", [](T& t) { t.unary("aten::log.default"); }},
      {"LogSoftmax",
       [](T& t) {
         t.set(t.call("aten::log_softmax.int", {{"self", t.tensor(0)}, {"dim", t.integer("axis", -1)}}),
               t.input(0).rank, t.input(0).is_float);
       }},
      {"MatMul", [](T& t) { t.matmul(); }},
      {"Max", [](T& t) { t.variadic("aten::maximum.default"); }},
      {"MaxPool", [](T& t) { t.pooling(); }},
      {"Mean", [](T& t) { t.variadic("aten::add.Tensor"); }},
      {"Min", [](T& t) { t.variadic("aten::minimum.default"); }},
      {"Mish", [](T& t) { t.unary("aten::mish.default"); }},
      {"Mod",
       [](T& t) {
         const bool is_fmod = t.integer("fmod", 0) != 0;
         t.binary(is_fmod ? "aten::fmod.Tensor" : "aten::remainder.Tensor");
       }},
      {"Mul", [](T& t) { t.binary("aten::mul.Tensor"); }},
      {"Neg", [](T& t) { t.unary("aten::neg.default"); }},
      {"Not",
       [](T& t) {
         t.set(t.call("aten::logical_not.default", {{"self", t.tensor(0)}}), t.input(0).rank, false);
       }},
      {"Or", [](T& t) { t.binary("aten::logical_or.default", true); }},
      {"PRelu",
       [](T& t) {
         const auto x = t.tensor(0), slope = t.tensor(1);
         const auto above = t.call("aten::clamp_min.default", {{"self", x}, {"min", 0.0}});
         const auto below = t.call("aten::clamp_max.default", {{"self", x}, {"max", 0.0}});
         const auto scaled = t.call("aten::mul.Tensor", {{"self", below}, {"other", slope}});
         t.set(t.call("aten::add.Tensor", {{"self", above}, {"other", scaled}}), t.input(0).rank,
               t.input(0).is_float);
       }},
      {"Pad", [](T& t) { t.pad(); }},
      {"Pow", [](T& t) { t.binary("aten::pow.Tensor_Tensor"); }},
      {"Reciprocal", [](T& t) { t.unary("aten::reciprocal.default"); }},
      {"ReduceL2", [](T& t) { t.reduction("aten::linalg_vector_norm.default"); }},
      {"ReduceMax", [](T& t) { t.reduction("aten::amax.default"); }},
      {"ReduceMean", [](T& t) { t.reduction("aten::mean.dim"); }},
      {"ReduceMin", [](T& t) { t.reduction("aten::amin.default"); }},
      {"ReduceProd", [](T& t) { t.reduction("aten::prod.dim_int"); }},
      {"ReduceSum", [](T& t) { t.reduction("aten::sum.dim_IntList"); }},
      {"Relu", [](T& t) { t.unary("aten::relu.default"); }},
      {"Reshape", [](T& t) { t.reshape(); }},
      {"Resize", [](T& t) { t.resize(); }},
      {"Round", [](T& t) { t.unary("aten::round.default"); }},
      {"Selu",
       [](T& t) {
         constexpr double alpha = 1.6732632, gamma = 1.0507010, rounding = 1e-5;
         if (std::abs(t.real("alpha", alpha) - alpha) > rounding ||
             std::abs(t.real("gamma", gamma) - gamma) > rounding)
           t.refuse("has other constants than usual");
         t.unary("aten::selu.default");
       }},
      {"Shape", [](T& t) { t.shape(); }},
      {"Sigmoid", [](T& t) { t.unary("aten::sigmoid.default"); }},
      {"Sign", [](T& t) { t.unary("aten::sign.default"); }},
      {"Sin", [](T& t) { t.unary("aten::sin.default"); }},
      {"Slice", [](T& t) { t.slice(); }},
      {"Softmax",
       [](T& t) {
         t.set(t.call("aten::softmax.int", {{"self", t.tensor(0)}, {"dim", t.integer("axis", -1)}}),
               t.input(0).rank, t.input(0).is_float);
       }},
      {"Softplus", [](T& t) { t.unary("aten::softplus.default"); }},
      {"Softsign",
       [](T& t) {
         const auto x = t.tensor(0);
         const auto size = t.call("aten::abs.default", {{"self", x}});
         const auto more = t.call("aten::add.Scalar", {{"self", size}, {"other", 1.0}});
         t.set(t.call("aten::div.Tensor", {{"self", x}, {"other", more}}), t.input(0).rank,
               t.input(0).is_float);
       }},
      {"Split", [](T& t) { t.split(); }},
      {"Sqrt", [](T& t) { t.unary("aten::sqrt.default"); }},
      {"Squeeze", [](T& t) { t.squeeze(); }},
      {"Sub", [](T& t) { t.binary("aten::sub.Tensor"); }},
      {"Sum", [](T& t) { t.variadic("aten::add.Tensor"); }},
      {"Tanh", [](T& t) { t.unary("aten::tanh.default"); }},
      {"Tile",
       [](T& t) {
         t.set(t.call("aten::repeat.default", {{"self", t.tensor(0)}, {"repeats", t.sizes(1)}}),
               t.input(0).rank, t.input(0).is_float);
       }},
      {"Transpose", [](T& t) { t.transpose(); }},
      {"Unsqueeze", [](T& t) { t.unsqueeze(); }},
      {"Where",
       [](T& t) {
         std::optional<std::size_t> rank = 0;
         for (std::size_t i = 0; i < 3; ++i)
           rank = rank && t.input(i).rank ? std::optional(std::max(*rank, *t.input(i).rank)) : std::nullopt;
         t.set(t.call("aten::where.self",
                      {{"condition", t.tensor(0)}, {"self", t.tensor(1)}, {"other", t.tensor(2)}}),
               rank, t.input(1).is_float);
       }},
  };
  return all;
}

REFINE_INLINE void OnnxTranslator::translate_node() {
  if (node_->outputs.empty() || node_->outputs[0].empty()) refuse("returns nothing");
  read_.clear();
  if (!translate_sizes()) {
    const auto handler = handlers().find(node_->op);
    if (handler == handlers().end()) refuse("has an operator that refine does not translate");
    handler->second(*this);
  }
  for (const auto& [name, content] : node_->attributes) {
    if (!read_.contains(name))
      refuse(fmt::format("has the attribute '{}', which refine does not know", name));
  }
}

REFINE_INLINE formats::ExportedProgram OnnxTranslator::translate() {
  if (model_->inputs.size() != 1) {
    fail(fmt::format("it takes {} inputs, expected one: images", model_->inputs.size()));
  }
  const formats::OnnxValue& images = model_->inputs[0];
  if (!images.has_shape || images.sizes.size() != 4) fail("its input is not images N×C×H×W");
  formats::GraphShape shape{.type = images.type.value_or(ElementType::float32), .sizes = images.sizes};
  shape.example.resize(images.sizes.size(), 0);
  program_.shapes[images.name] = shape;
  names_.insert(images.name);
  values_[images.name] = {.name = images.name, .rank = images.sizes.size()};
  for (const auto& [name, tensor] : model_->tensors) {
    names_.insert(name);
    values_[name] = {.rank = tensor.sizes.size(),
                     .integers = sizes_of(tensor),
                     .constant = &tensor,
                     .is_float = is_float_type(tensor.type)};
  }
  for (const OnnxNode& node : model_->nodes) {
    node_ = &node;
    translate_node();
  }
  for (const formats::OnnxValue& output : model_->outputs) {
    const auto found = values_.find(output.name);
    if (found == values_.end() || (found->second.name.empty() && !found->second.constant)) continue;
    const formats::ValueName value = tensor(found->second, output.name);
    formats::GraphShape of_output{.type = output.type.value_or(ElementType::float32), .sizes = output.sizes};
    if (!output.has_shape && found->second.rank) of_output.sizes.resize(*found->second.rank);
    of_output.example.resize(of_output.sizes.size(), 0);
    program_.shapes.emplace(value.name, of_output);  // an output may be the images
    program_.outputs.push_back({.name = output.name, .value = value.name});
  }
  program_.inputs.push_back({.kind = formats::GraphInput::Kind::images, .name = images.name});
  program_.torch_version = fmt::format("ONNX opset {}", model_->opset);
  if (const auto about = model_->metadata.find("refine.json"); about != model_->metadata.end())
    program_.extra["refine.json"] = about->second;
  program_.onnx = model_;
  return std::move(program_);
}

REFINE_INLINE formats::ExportedProgram translate_onnx(std::shared_ptr<const formats::OnnxModel> model,
                                                      const std::string& name) {
  return OnnxTranslator(std::move(model), name).translate();
}

}  // namespace refine::backbones::detail
