#pragma once

#include <refine/export/onnx.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <numbers>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/export/impl/pt2.ipp>
#include <refine/formats/onnx.hpp>
#include <refine/nn/device.hpp>
#include <refine/programs/detail/exported_module.hpp>
#include <refine/programs/onnx.hpp>

namespace refine::detail::onnx {

using formats::BatchInteger;
using formats::ElementType;
using formats::GraphNode;
using pt2::OnnxPart;

using Sizes = std::vector<BatchInteger>;
using Attributes = std::map<std::string, formats::OnnxAttribute>;

/// What the translator takes.
struct Source {
  const formats::WritableProgram& program;           ///< with the type of each value
  const pt2::Tensors& tensors;                       ///< of the program
  const std::map<std::string, c10::IValue>& sample;  ///< the values of a run
  const std::vector<OnnxPart>& parts;                ///< translated from ONNX
  const std::string& file;                           ///< for messages
};

/// Translates a program of ATen's operators to a graph of ONNX's.
///
/// Each value of the program has a known type and rank, and extents that are linear in the number of
/// images. What depends on tensors of the file alone (masks, tables of positions) is computed here and
/// becomes an initializer.
class GraphWriter {
 public:
  explicit GraphWriter(const Source& source);

  /// Returns the graph.
  /// \throws Error if the program has an operator that is not translated
  formats::WritableOnnx write();

 private:
  /// A node of the program, with its arguments by name.
  struct Call {
    const GraphNode& node;
    std::string op;                             // "relu", without namespace, overload and a final '_'
    std::optional<c10::OperatorHandle> handle;  // for default values
    std::map<std::string, const formats::GraphArgument*> given = {};
    std::size_t position = 0;  // among the nodes
  };
  using Handler = std::string (GraphWriter::*)(const Call&);

  [[noreturn]] void fail(const Call& call, std::string_view why) const;

  // What the program does with memory.
  void find_constants();
  void find_constants_once(bool& changed);
  std::size_t group_of(const std::string& value);
  void join(const std::string& a, const std::string& b);
  void write_in_place(const Call& call, const std::string& written, const std::string& result);

  // Arguments.
  const formats::GraphArgument* argument(const Call& call, const std::string& name) const;
  c10::IValue default_of(const Call& call, const std::string& name) const;
  bool has(const Call& call, const std::string& name) const;
  std::int64_t integer(const Call& call, const std::string& name) const;
  double number(const Call& call, const std::string& name) const;
  bool flag(const Call& call, const std::string& name) const;
  std::string text(const Call& call, const std::string& name) const;
  std::vector<std::int64_t> integers(const Call& call, const std::string& name) const;
  const std::string& value(const Call& call, const std::string& name) const;
  std::vector<std::string> values(const Call& call, const std::string& name) const;
  const std::string& result(const Call& call) const;
  std::int64_t axis(const Call& call, const std::string& name, std::size_t rank) const;

  // Values of the program.
  const Sizes& sizes(const std::string& value) const;
  ElementType type(const std::string& value) const;
  std::int64_t fixed(const Call& call, const BatchInteger& size) const;
  std::string use(const Call& call, const std::string& value);
  const std::string& stored_name(const std::string& value) const;
  at::Tensor content_of(const std::string& value) const;
  std::string tensor(const Call& call, const std::string& name) { return use(call, value(call, name)); }
  std::string operand(const Call& call, const std::string& name, ElementType type);

  // Values of the graph.
  std::string unique(const std::string& wanted);
  std::string emit(const Call& call, const std::string& op, std::vector<std::string> inputs,
                   Attributes attributes = {});
  std::vector<std::string> emit_several(const Call& call, const std::string& op,
                                        std::vector<std::string> inputs, Attributes attributes,
                                        std::size_t outputs);
  std::string initializer(const std::string& wanted, const at::Tensor& tensor);
  std::string scalar(double value, ElementType type = ElementType::float32);
  std::string list(const std::vector<std::int64_t>& values);
  std::string batch();
  std::string size_of(const BatchInteger& size);
  std::string shape(const Sizes& sizes);
  std::string reshape(const Call& call, const std::string& input, const Sizes& sizes);
  std::string cast(const Call& call, const std::string& input, ElementType from, ElementType to);
  std::string reduce(const Call& call, const std::string& op, const std::string& input,
                     const std::vector<std::int64_t>& axes, bool keep);
  std::string resample(const Call& call, const std::string& input, const at::Tensor& rows,
                       const at::Tensor& columns);
  std::string standardize(const Call& call, const std::string& input, const std::vector<std::int64_t>& axes,
                          double epsilon);

  // Operators.
  void translate(const Call& call);
  std::string arithmetic(const Call& call);
  std::string comparison(const Call& call);
  std::string elementwise(const Call& call);
  std::string activation(const Call& call);
  std::string convolution(const Call& call);
  std::string linear(const Call& call);
  std::string multiplication(const Call& call);
  std::string normalization(const Call& call);
  std::string layer_norm(const Call& call);
  std::string group_norm(const Call& call);
  std::string pooling(const Call& call);
  std::string adaptive_pooling(const Call& call);
  std::string reduction(const Call& call);
  std::string variance(const Call& call);
  std::string softmax(const Call& call);
  std::string new_shape(const Call& call);
  std::string permutation(const Call& call);
  std::string expansion(const Call& call);
  std::string concatenation(const Call& call);
  std::string slice(const Call& call);
  std::string selection(const Call& call);
  std::string gather(const Call& call);
  std::string roll(const Call& call);
  std::string padding(const Call& call);
  std::string upsampling(const Call& call);
  std::string shuffle(const Call& call);
  std::string filling(const Call& call);
  std::string copy(const Call& call);
  std::string choice(const Call& call);
  std::string scaled_attention(const Call& call);
  std::string repetition(const Call& call);
  void split(const Call& call);
  void insert_part(const OnnxPart& part);

  static const std::map<std::string, Handler>& handlers();

  const Source& source_;
  std::int64_t opset_ = 17;
  formats::WritableOnnx graph_;
  std::map<std::string, std::string> names_;               // value of the program → of the graph
  std::map<std::string, std::string> stored_;              // value → tensor of the file
  std::map<std::string, Sizes> stored_sizes_;              // of these values
  std::map<std::string, std::size_t> defined_, last_use_;  // value → position of a node
  std::map<std::string, std::size_t> groups_;              // value → group that shares memory
  std::vector<std::set<std::string>> members_;             // of the groups
  std::map<std::size_t, std::size_t> last_write_;          // group → position of a node
  std::set<std::string> may_copy_;       // values that may be copies of the others of their group
  std::set<std::size_t> changing_;       // groups that receive values that are not constant
  std::set<std::string> constants_;      // values that depend on tensors of the file alone
  std::set<std::string> used_;           // names of the graph
  std::map<std::string, int> suffixes_;  // name → the last number that `unique` appended to it
  std::map<std::string, at::Tensor> initializers_;
  std::map<std::string, std::string> shared_;  // what an initializer is made of → its name
  std::map<std::pair<const formats::OnnxModel*, std::string>, std::string> part_tensors_;
  std::size_t parts_written_ = 0;
  std::string batch_, images_;
};

/// Returns LibTorch's name of an element type.
inline at::ScalarType scalar_type(ElementType type) {
  for (const at::ScalarType each : {at::kFloat, at::kLong, at::kBool, at::kDouble, at::kInt, at::kShort,
                                    at::kChar, at::kByte, at::kHalf, at::kBFloat16}) {
    if (pt2::element_type(each) == type) return each;
  }
  return at::kFloat;
}

inline std::int64_t rank_of(const Sizes& sizes) {
  return static_cast<std::int64_t>(sizes.size());
}

REFINE_INLINE GraphWriter::GraphWriter(const Source& source) : source_(source) {
  used_ = {"images", "logits", "alarm"};
  for (const OnnxPart& part : source.parts) {
    opset_ = part.model->opset;
    for (const auto& [name, content] : part.model->tensors) used_.insert(name);
    for (const formats::OnnxValue& input : part.model->inputs) used_.insert(input.name);
    for (const formats::OnnxNode& node : part.model->nodes) {
      used_.insert(node.outputs.begin(), node.outputs.end());
      used_.insert(node.name);  // ONNX Runtime refuses two nodes of one name
    }
  }
}

REFINE_INLINE void GraphWriter::fail(const Call& call, std::string_view why) const {
  throw Error("cannot write {} as ONNX: its operator {} {}; write a .pt2 or TorchScript (.pt) instead",
              source_.file, call.node.target, why);
}

// --- memory ----------------------------------------------------------------------------------------------

REFINE_INLINE std::size_t GraphWriter::group_of(const std::string& value) {
  const auto [found, is_new] = groups_.emplace(value, members_.size());
  if (is_new) members_.push_back({value});
  return found->second;
}

REFINE_INLINE void GraphWriter::join(const std::string& a, const std::string& b) {
  const std::size_t to = group_of(a), from = group_of(b);
  if (to == from) return;
  for (const std::string& each : members_[from]) {
    groups_[each] = to;
    members_[to].insert(each);
  }
  members_[from].clear();
}

/// Calls `visit` with the name of each value that a node reads.
template <typename Visit>
void for_each_input(const GraphNode& node, const Visit& visit) {
  for (const auto& [parameter, argument] : node.inputs) {
    pt2::for_each_name(argument, [&](const formats::ValueName& value) { visit(value.name); });
  }
}

/// Calls `visit` with the name of each value that a node defines.
template <typename Visit>
void for_each_output(const GraphNode& node, const Visit& visit) {
  for (const formats::GraphArgument& output : node.outputs) {
    pt2::for_each_name(output, [&](const formats::ValueName& value) { visit(value.name); });
  }
}

/// Calls `visit` with the name of each value whose memory a node's results may share, and whether the
/// node writes to it.
template <typename Visit>
void for_each_alias(const GraphNode& node, const Visit& visit) {
  const auto op = pt2::operator_of(node);
  if (!op) return;
  for (const c10::Argument& parameter : op->schema().arguments()) {
    if (!parameter.alias_info()) continue;
    for (const auto& [name, argument] : node.inputs) {
      const auto* input = std::get_if<formats::ValueName>(&argument);
      if (name == parameter.name() && input) visit(input->name, parameter.alias_info()->isWrite());
    }
  }
}

/// Finds which values share memory, and which are constant.
REFINE_INLINE void GraphWriter::find_constants() {
  // They return their operand or a copy of it.
  static const std::set<std::string_view> copying = {"aten::contiguous", "aten::flatten",    "aten::reshape",
                                                     "aten::to",         "aten::reshape_as", "aten::type_as"};
  const auto& program = source_.program;
  for (const formats::GraphInput& input : program.inputs) {
    if (input.kind == formats::GraphInput::Kind::tensor) {
      stored_[input.name] = input.stored;
      Sizes& sizes = stored_sizes_[input.name];
      for (const std::int64_t size : source_.tensors.by_name.at(input.stored).sizes())
        sizes.push_back({.constant = size});
    }
    if (input.kind == formats::GraphInput::Kind::images) images_ = input.name;
    defined_[input.name] = 0;
  }
  for (std::size_t i = 0; i < program.nodes.size(); ++i) {
    const GraphNode& node = program.nodes[i];
    for_each_input(node, [&](const std::string& value) { last_use_[value] = i; });
    for_each_output(node, [&](const std::string& value) { defined_[value] = i; });
    for_each_alias(node, [&](const std::string& input, bool) {
      for_each_output(node, [&](const std::string& output) { join(input, output); });
    });
    const std::string_view base = std::string_view(node.target).substr(0, node.target.find('.'));
    if (copying.contains(base))
      for_each_output(node, [&](const std::string& output) { may_copy_.insert(output); });
  }
  // Some results are an operand although no schema says so: those of dropout in evaluation mode.
  std::map<const void*, std::string> owners;  // memory → a value in it
  for (const auto& [name, value] : source_.sample) {
    if (!value.isTensor() || !value.toTensor().defined() || !value.toTensor().has_storage()) continue;
    const void* memory = value.toTensor().storage().unsafeGetStorageImpl();
    join(owners.emplace(memory, name).first->second, name);
  }
  for (const formats::GraphOutput& output : program.outputs) last_use_[output.value] = program.nodes.size();
  for (std::size_t i = 0; i < program.nodes.size(); ++i) {  // when the groups are complete
    for_each_alias(program.nodes[i], [&](const std::string& input, bool is_write) {
      if (is_write) last_write_[group_of(input)] = i;
    });
  }
  bool changed = true;
  while (changed) {
    changed = false;
    find_constants_once(changed);
  }
}

/// \param changed set to true if a group was found to receive other values than constants
REFINE_INLINE void GraphWriter::find_constants_once(bool& changed) {
  // They take no more of their first argument than its type.
  static const std::set<std::string_view> creating = {"aten::new_zeros", "aten::new_ones", "aten::new_full",
                                                      "aten::new_empty"};
  constants_.clear();
  for (const auto& [name, stored] : stored_) constants_.insert(name);
  const auto is_fixed = [&](const std::string& value) {
    const auto found = source_.program.tensors.find(value);
    return found == source_.program.tensors.end() ||
           std::ranges::all_of(found->second.sizes,
                               [](const BatchInteger& size) { return size.per_image == 0; });
  };
  for (const GraphNode& node : source_.program.nodes) {
    const std::string_view base = std::string_view(node.target).substr(0, node.target.find('.'));
    bool is_constant = base.starts_with("aten::") && base != "aten::sym_size";
    bool is_first = true;
    for (const auto& [parameter, argument] : node.inputs) {
      const bool is_ignored = is_first && creating.contains(base);
      is_first = false;
      if (is_ignored) continue;
      pt2::for_each_name(argument, [&](const formats::ValueName& input) {
        is_constant = is_constant && constants_.contains(input.name);
      });
    }
    for (const OnnxPart& part : source_.parts) is_constant = is_constant && !part.nodes.contains(node.name);
    for_each_output(node, [&](const std::string& output) {
      is_constant = is_constant && is_fixed(output) && !changing_.contains(group_of(output));
    });
    if (is_constant) {
      for_each_output(node, [&](const std::string& output) { constants_.insert(output); });
      continue;
    }
    for_each_alias(node, [&](const std::string& input, bool is_write) {
      if (is_write && changing_.insert(group_of(input)).second) changed = true;
    });
  }
}

/// Notes that a value is another one from now on. Values with the same memory must be the same as a
/// whole, or not be used any more.
REFINE_INLINE void GraphWriter::write_in_place(const Call& call, const std::string& written,
                                               const std::string& result) {
  const auto before = names_.find(written);
  const auto& members = members_[group_of(written)];
  const bool may_be_copies =
      std::ranges::any_of(members, [&](const std::string& each) { return may_copy_.contains(each); });
  for (const std::string& each : members) {
    const auto known = names_.find(each);
    if (each == written || defined_[each] >= call.position) continue;
    const auto use = last_use_.find(each);
    if (use == last_use_.end() || use->second <= call.position) continue;
    if (may_be_copies) fail(call, "changes a tensor in place that may be a copy of another one");
    if (known == names_.end() || before == names_.end() || known->second != before->second)
      fail(call, "changes a part of a tensor in place");
    known->second = result;
  }
  names_[written] = result;
}

// --- arguments -------------------------------------------------------------------------------------------

REFINE_INLINE const formats::GraphArgument* GraphWriter::argument(const Call& call,
                                                                  const std::string& name) const {
  const auto found = call.given.find(name);
  if (found == call.given.end() || std::holds_alternative<std::monostate>(*found->second)) return nullptr;
  return found->second;
}

REFINE_INLINE c10::IValue GraphWriter::default_of(const Call& call, const std::string& name) const {
  if (call.handle && !call.given.contains(name)) {
    for (const c10::Argument& parameter : call.handle->schema().arguments()) {
      if (parameter.name() == name && parameter.default_value()) return *parameter.default_value();
    }
  }
  return {};
}

REFINE_INLINE bool GraphWriter::has(const Call& call, const std::string& name) const {
  return argument(call, name) || !default_of(call, name).isNone();
}

REFINE_INLINE std::int64_t GraphWriter::integer(const Call& call, const std::string& name) const {
  if (const auto* given = argument(call, name)) {
    if (const auto* number = std::get_if<std::int64_t>(given)) return *number;
    fail(call, fmt::format("has an argument '{}' that depends on the number of images", name));
  }
  const c10::IValue value = default_of(call, name);
  if (!value.isInt()) fail(call, fmt::format("lacks the argument '{}'", name));
  return value.toInt();
}

REFINE_INLINE double GraphWriter::number(const Call& call, const std::string& name) const {
  if (const auto* given = argument(call, name)) {
    if (const auto* real = std::get_if<double>(given)) return *real;
    if (const auto* whole = std::get_if<std::int64_t>(given)) return static_cast<double>(*whole);
    if (const auto* truth = std::get_if<bool>(given)) return *truth ? 1 : 0;
    fail(call, fmt::format("has an argument '{}' that is not a constant number", name));
  }
  const c10::IValue value = default_of(call, name);
  if (value.isScalar()) return value.toScalar().toDouble();
  fail(call, fmt::format("lacks the argument '{}'", name));
}

REFINE_INLINE bool GraphWriter::flag(const Call& call, const std::string& name) const {
  if (const auto* given = argument(call, name)) {
    if (const auto* truth = std::get_if<bool>(given)) return *truth;
    fail(call, fmt::format("has an argument '{}' of another kind", name));
  }
  const c10::IValue value = default_of(call, name);
  return value.isBool() && value.toBool();
}

REFINE_INLINE std::string GraphWriter::text(const Call& call, const std::string& name) const {
  if (const auto* given = argument(call, name)) {
    if (const auto* words = std::get_if<std::string>(given)) return *words;
    fail(call, fmt::format("has an argument '{}' of another kind", name));
  }
  const c10::IValue value = default_of(call, name);
  return value.isString() ? value.toStringRef() : std::string();
}

REFINE_INLINE std::vector<std::int64_t> GraphWriter::integers(const Call& call,
                                                              const std::string& name) const {
  std::vector<std::int64_t> numbers;
  if (const auto* given = argument(call, name)) {
    if (const auto* single = std::get_if<std::int64_t>(given)) return {*single};
    const auto* list = std::get_if<std::vector<formats::GraphInteger>>(given);
    if (!list) fail(call, fmt::format("has an argument '{}' of another kind", name));
    for (const formats::GraphInteger& each : *list) {
      const auto* constant = std::get_if<std::int64_t>(&each);
      if (!constant)
        fail(call, fmt::format("has an argument '{}' that depends on the number of images", name));
      numbers.push_back(*constant);
    }
    return numbers;
  }
  const c10::IValue value = default_of(call, name);
  if (value.isIntList()) return value.toIntVector();
  if (value.isInt()) return {value.toInt()};
  return {};
}

REFINE_INLINE const std::string& GraphWriter::value(const Call& call, const std::string& name) const {
  const auto* given = argument(call, name);
  const auto* found = given ? std::get_if<formats::ValueName>(given) : nullptr;
  if (!found) fail(call, fmt::format("has an argument '{}' that is not a tensor", name));
  return found->name;
}

REFINE_INLINE std::vector<std::string> GraphWriter::values(const Call& call, const std::string& name) const {
  const auto* given = argument(call, name);
  const auto* list = given ? std::get_if<std::vector<formats::ValueName>>(given) : nullptr;
  if (!list) fail(call, fmt::format("has an argument '{}' that is not a list of tensors", name));
  std::vector<std::string> names;
  for (const formats::ValueName& each : *list) names.push_back(each.name);
  return names;
}

REFINE_INLINE const std::string& GraphWriter::result(const Call& call) const {
  const auto* output =
      call.node.outputs.empty() ? nullptr : std::get_if<formats::ValueName>(&call.node.outputs[0]);
  if (!output) fail(call, "returns no tensor");
  return output->name;
}

REFINE_INLINE std::int64_t GraphWriter::axis(const Call& call, const std::string& name,
                                             std::size_t rank) const {
  const std::int64_t given = integer(call, name);
  return given < 0 ? given + static_cast<std::int64_t>(rank) : given;
}

// --- values of the program ---------------------------------------------------------------------------------

REFINE_INLINE const Sizes& GraphWriter::sizes(const std::string& value) const {
  const auto known = source_.program.tensors.find(value);
  if (known != source_.program.tensors.end()) return known->second.sizes;
  return stored_sizes_.at(value);
}

REFINE_INLINE ElementType GraphWriter::type(const std::string& value) const {
  const auto known = source_.program.tensors.find(value);
  if (known != source_.program.tensors.end()) return known->second.type;
  if (source_.program.integers.contains(value)) return ElementType::int64;
  return *pt2::element_type(source_.tensors.by_name.at(stored_.at(value)).scalar_type());
}

REFINE_INLINE std::int64_t GraphWriter::fixed(const Call& call, const BatchInteger& size) const {
  if (size.per_image != 0) fail(call, "works along the dimension of the images");
  return size.constant;
}

/// Returns the name that a value has in the graph. A constant becomes an initializer.
REFINE_INLINE std::string GraphWriter::use(const Call& call, const std::string& value) {
  if (const auto known = names_.find(value); known != names_.end()) return known->second;
  if (const auto number = source_.program.integers.find(value); number != source_.program.integers.end()) {
    return emit(call, "Reshape", {size_of(number->second), list({})});
  }
  if (!constants_.contains(value))
    fail(call, fmt::format("uses '{}', a result that is not translated", value));
  const auto write = last_write_.find(group_of(value));
  if (write != last_write_.end() && write->second >= call.position)
    fail(call, "uses a constant that is changed later");
  return names_[value] = initializer(stored_name(value), content_of(value));
}

/// Returns the name of a constant in the file; its own if it is computed.
REFINE_INLINE const std::string& GraphWriter::stored_name(const std::string& value) const {
  const auto stored = stored_.find(value);
  return stored != stored_.end() ? stored->second : value;
}

/// Returns a constant.
REFINE_INLINE at::Tensor GraphWriter::content_of(const std::string& value) const {
  const auto stored = stored_.find(value);
  return stored != stored_.end() ? source_.tensors.by_name.at(stored->second)
                                 : source_.sample.at(value).toTensor();
}

/// Returns an argument that is a tensor or a number, as a tensor of a type.
REFINE_INLINE std::string GraphWriter::operand(const Call& call, const std::string& name,
                                               ElementType wanted) {
  const auto* given = argument(call, name);
  if (given && std::holds_alternative<formats::ValueName>(*given)) {
    const std::string& found = std::get<formats::ValueName>(*given).name;
    return cast(call, use(call, found), type(found), wanted);
  }
  return scalar(number(call, name), wanted);
}

// --- values of the graph -----------------------------------------------------------------------------------

REFINE_INLINE std::string GraphWriter::unique(const std::string& wanted) {
  std::string name = wanted;
  for (int& last = suffixes_[wanted]; !used_.insert(name).second;)
    name = fmt::format("{}_{}", wanted, ++last);
  return name;
}

REFINE_INLINE std::vector<std::string> GraphWriter::emit_several(const Call& call, const std::string& op,
                                                                 std::vector<std::string> inputs,
                                                                 Attributes attributes, std::size_t outputs) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < outputs; ++i) names.push_back(unique(call.node.name));
  graph_.nodes.push_back({.name = names[0],
                          .op = op,
                          .inputs = std::move(inputs),
                          .outputs = names,
                          .attributes = std::move(attributes)});
  return names;
}

REFINE_INLINE std::string GraphWriter::emit(const Call& call, const std::string& op,
                                            std::vector<std::string> inputs, Attributes attributes) {
  return emit_several(call, op, std::move(inputs), std::move(attributes), 1)[0];
}

REFINE_INLINE std::string GraphWriter::initializer(const std::string& wanted, const at::Tensor& tensor) {
  if (!pt2::element_type(tensor.scalar_type())) {
    throw Error(
        "cannot write {} as ONNX: its tensor '{}' has the type {}; write a .pt2 or TorchScript (.pt) instead",
        source_.file, wanted, c10::toString(tensor.scalar_type()));
  }
  const std::string name = unique(wanted);
  initializers_[name] = tensor.detach().to(at::kCPU).contiguous();
  return name;
}

REFINE_INLINE std::string GraphWriter::scalar(double value, ElementType type) {
  const std::string key = fmt::format("scalar {} {:a}", static_cast<int>(type), value);
  if (const auto known = shared_.find(key); known != shared_.end()) return known->second;
  return shared_[key] = initializer("scalar", at::full({}, value, scalar_type(type)));
}

REFINE_INLINE std::string GraphWriter::list(const std::vector<std::int64_t>& values) {
  const std::string key = fmt::format("list {}", fmt::join(values, " "));
  if (const auto known = shared_.find(key); known != shared_.end()) return known->second;
  return shared_[key] = initializer("list", at::tensor(values, at::kLong));
}

/// Returns the number of images, a list of one element.
REFINE_INLINE std::string GraphWriter::batch() {
  if (!batch_.empty()) return batch_;
  const std::string shape = unique("images_shape");
  batch_ = unique("images_count");
  graph_.nodes.push_back({.name = shape, .op = "Shape", .inputs = {"images"}, .outputs = {shape}});
  graph_.nodes.push_back({.name = batch_,
                          .op = "Gather",
                          .inputs = {shape, list({0})},
                          .outputs = {batch_},
                          .attributes = {{"axis", std::int64_t{0}}}});
  return batch_;
}

/// Returns a size, a list of one element.
REFINE_INLINE std::string GraphWriter::size_of(const BatchInteger& size) {
  if (size.per_image == 0) return list({size.constant});
  std::string result = batch();
  const auto apply = [&](const char* op, std::int64_t by) {
    const std::string name = unique("size");
    graph_.nodes.push_back({.name = name, .op = op, .inputs = {result, list({by})}, .outputs = {name}});
    result = name;
  };
  if (size.per_image != 1) apply("Mul", size.per_image);
  if (size.constant != 0) apply("Add", size.constant);
  return result;
}

REFINE_INLINE std::string GraphWriter::shape(const Sizes& sizes) {
  std::vector<std::int64_t> constant;
  for (const BatchInteger& size : sizes) {
    if (size.per_image == 0) constant.push_back(size.constant);
  }
  if (constant.size() == sizes.size()) return list(constant);
  std::vector<std::string> parts;
  for (const BatchInteger& size : sizes) parts.push_back(size_of(size));
  if (parts.size() == 1) return parts[0];
  const std::string name = unique("shape");
  graph_.nodes.push_back({.name = name,
                          .op = "Concat",
                          .inputs = std::move(parts),
                          .outputs = {name},
                          .attributes = {{"axis", std::int64_t{0}}}});
  return name;
}

REFINE_INLINE std::string GraphWriter::reshape(const Call& call, const std::string& input,
                                               const Sizes& sizes) {
  std::vector<std::int64_t> target;
  std::size_t open = 0;
  for (const BatchInteger& size : sizes) {
    if (size.per_image == 0 && size.constant == 0) fail(call, "has an empty result");
    open += size.per_image != 0;
    target.push_back(size.per_image == 0 ? size.constant : -1);
  }
  return emit(call, "Reshape", {input, open > 1 ? shape(sizes) : list(target)});
}

/// ONNX's number of a type.
inline std::int64_t onnx_type(ElementType type) {
  return formats::detail::onnx::type_number(type);
}

REFINE_INLINE std::string GraphWriter::cast(const Call& call, const std::string& input, ElementType from,
                                            ElementType to) {
  if (from == to) return input;
  return emit(call, "Cast", {input}, {{"to", onnx_type(to)}});
}

REFINE_INLINE std::string GraphWriter::reduce(const Call& call, const std::string& op,
                                              const std::string& input, const std::vector<std::int64_t>& axes,
                                              bool keep) {
  constexpr std::int64_t with_axes_as_input = 18;
  Attributes attributes = {{"keepdims", std::int64_t{keep}}};
  std::vector<std::string> inputs = {input};
  if (!axes.empty()) {
    if (op == "ReduceSum" || opset_ >= with_axes_as_input) {
      inputs.push_back(list(axes));
    } else {
      attributes["axes"] = axes;
    }
  }
  return emit(call, op, std::move(inputs), std::move(attributes));
}

/// Multiplies images N×C×H×W from both sides: rows · image · columns.
/// \param rows float height of the result × H
/// \param columns float W × width of the result
REFINE_INLINE std::string GraphWriter::resample(const Call& call, const std::string& input,
                                                const at::Tensor& rows, const at::Tensor& columns) {
  const std::string wide = emit(call, "MatMul", {input, initializer(call.node.name + "_columns", columns)});
  return emit(call, "MatMul", {initializer(call.node.name + "_rows", rows), wide});
}

/// Subtracts the mean over some axes and divides by the deviation.
REFINE_INLINE std::string GraphWriter::standardize(const Call& call, const std::string& input,
                                                   const std::vector<std::int64_t>& axes, double epsilon) {
  const std::string centred =
      emit(call, "Sub", {input, reduce(call, "ReduceMean", input, axes, /*keep=*/true)});
  const std::string variance =
      reduce(call, "ReduceMean", emit(call, "Mul", {centred, centred}), axes, /*keep=*/true);
  const std::string deviation = emit(call, "Sqrt", {emit(call, "Add", {variance, scalar(epsilon)})});
  return emit(call, "Div", {centred, deviation});
}

// --- operators ---------------------------------------------------------------------------------------------

REFINE_INLINE std::string GraphWriter::arithmetic(const Call& call) {
  static const std::map<std::string_view, const char*> ops = {
      {"add", "Add"},      {"sub", "Sub"},         {"mul", "Mul"},      {"div", "Div"},
      {"rsub", "Sub"},     {"true_divide", "Div"}, {"multiply", "Mul"}, {"divide", "Div"},
      {"subtract", "Sub"}, {"maximum", "Max"},     {"minimum", "Min"},  {"floor_divide", "Div"},
      {"pow", "Pow"},      {"fmax", "Max"},        {"fmin", "Min"},     {"max", "Max"},
      {"min", "Min"}};
  const ElementType wanted = type(result(call));
  const bool is_power = call.op == "pow";
  std::string a = operand(call, "self", wanted), b = operand(call, is_power ? "exponent" : "other", wanted);
  if (wanted == ElementType::boolean) {  // ONNX computes with numbers only
    const std::string op = ops.at(call.op);
    const bool is_and = op == "Mul" || op == "Min", is_or = op == "Add" || op == "Max";
    if ((!is_and && !is_or) || (has(call, "alpha") && number(call, "alpha") != 1))
      fail(call, "computes with booleans");
    return emit(call, is_and ? "And" : "Or", {a, b});
  }
  if (has(call, "alpha") && number(call, "alpha") != 1) {
    const std::string alpha = scalar(number(call, "alpha"), wanted);
    (call.op == "rsub" ? a : b) = emit(call, "Mul", {call.op == "rsub" ? a : b, alpha});
  }
  if (call.op == "rsub") std::swap(a, b);
  const std::string rounding = call.op == "floor_divide" ? "floor" : text(call, "rounding_mode");
  if (!rounding.empty() && wanted != ElementType::float32) fail(call, "divides integers");
  const std::string quotient = emit(call, ops.at(call.op), {a, b});
  if (rounding.empty()) return quotient;
  if (rounding != "floor") fail(call, "rounds towards zero");
  return emit(call, "Floor", {quotient});
}

REFINE_INLINE std::string GraphWriter::comparison(const Call& call) {
  static const std::map<std::string_view, const char*> ops = {
      {"gt", "Greater"},      {"ge", "GreaterOrEqual"}, {"lt", "Less"},         {"le", "LessOrEqual"},
      {"eq", "Equal"},        {"ne", "Equal"},          {"greater", "Greater"}, {"less", "Less"},
      {"logical_and", "And"}, {"logical_or", "Or"},     {"bitwise_and", "And"}, {"bitwise_or", "Or"},
      {"__and__", "And"},     {"__or__", "Or"}};
  const std::string op = ops.at(call.op);
  ElementType wanted = ElementType::boolean;
  if (op != "And" && op != "Or") {
    wanted = ElementType::int64;
    for (const char* name : {"self", "other"}) {
      const auto* given = argument(call, name);
      const auto* value = given ? std::get_if<formats::ValueName>(given) : nullptr;
      if (value ? type(value->name) == ElementType::float32 : given && std::holds_alternative<double>(*given))
        wanted = ElementType::float32;
    }
  } else if (type(result(call)) != ElementType::boolean) {
    fail(call, "combines the bits of integers");
  }
  const std::string equal = emit(call, op, {operand(call, "self", wanted), operand(call, "other", wanted)});
  return call.op == "ne" ? emit(call, "Not", {equal}) : equal;
}

REFINE_INLINE std::string GraphWriter::elementwise(const Call& call) {
  static const std::map<std::string_view, const char*> ops = {{"relu", "Relu"},
                                                              {"sigmoid", "Sigmoid"},
                                                              {"tanh", "Tanh"},
                                                              {"exp", "Exp"},
                                                              {"log", "Log"},
                                                              {"sqrt", "Sqrt"},
                                                              {"neg", "Neg"},
                                                              {"abs", "Abs"},
                                                              {"floor", "Floor"},
                                                              {"ceil", "Ceil"},
                                                              {"round", "Round"},
                                                              {"erf", "Erf"},
                                                              {"reciprocal", "Reciprocal"},
                                                              {"sin", "Sin"},
                                                              {"cos", "Cos"},
                                                              {"sign", "Sign"},
                                                              {"logical_not", "Not"},
                                                              {"bitwise_not", "Not"},
                                                              {"negative", "Neg"},
                                                              {"special_expit", "Sigmoid"},
                                                              {"special_erf", "Erf"},
                                                              {"absolute", "Abs"}};
  if (call.op == "round" && has(call, "decimals") && integer(call, "decimals") != 0)
    fail(call, "rounds to decimals");
  if (call.op == "bitwise_not" && type(result(call)) != ElementType::boolean)
    fail(call, "inverts the bits of integers");
  const bool is_not = call.op.ends_with("_not");
  const ElementType wanted = is_not ? ElementType::boolean : type(result(call));
  if (wanted == ElementType::boolean && !is_not) fail(call, "computes with booleans");
  const std::string x = operand(call, "self", wanted), op = ops.at(call.op);
  // Runtimes do not have these for integers.
  if (wanted != ElementType::float32 && (op == "Floor" || op == "Ceil" || op == "Round")) return x;
  if (wanted == ElementType::int64 && op == "Relu") return emit(call, "Max", {x, scalar(0, wanted)});
  return emit(call, op, {x});
}

REFINE_INLINE std::string GraphWriter::activation(const Call& call) {
  const std::string& op = call.op;
  const std::string x = tensor(call, "self");
  const auto real = [](double value) { return static_cast<float>(value); };
  const auto times_x = [&](const std::string& gate) { return emit(call, "Mul", {x, gate}); };
  if (op == "relu6") return emit(call, "Clip", {x, scalar(0), scalar(6)});
  if (op == "clamp" || op == "clip" || op == "hardtanh" || op == "clamp_min" || op == "clamp_max") {
    const bool is_tanh = op == "hardtanh";
    const std::string low = is_tanh ? "min_val" : "min", high = is_tanh ? "max_val" : "max";
    const ElementType wanted = type(result(call));
    std::string y = cast(call, x, type(value(call, "self")), wanted);
    if (op != "clamp_max" && has(call, low)) y = emit(call, "Max", {y, operand(call, low, wanted)});
    if (op != "clamp_min" && has(call, high)) y = emit(call, "Min", {y, operand(call, high, wanted)});
    return y;
  }
  if (op == "hardsigmoid" || op == "hardswish") {
    constexpr double slope = 1.0 / 6, centre = 0.5;
    const std::string gate = emit(call, "HardSigmoid", {x}, {{"alpha", real(slope)}, {"beta", real(centre)}});
    return op == "hardswish" ? times_x(gate) : gate;
  }
  if (op == "silu") return times_x(emit(call, "Sigmoid", {x}));
  if (op == "mish") return times_x(emit(call, "Tanh", {emit(call, "Softplus", {x})}));
  if (op == "log_sigmoid") return emit(call, "Neg", {emit(call, "Softplus", {emit(call, "Neg", {x})})});
  if (op == "leaky_relu")
    return emit(call, "LeakyRelu", {x}, {{"alpha", real(number(call, "negative_slope"))}});
  if (op == "elu") {
    if (number(call, "scale") != 1 || number(call, "input_scale") != 1) fail(call, "has a scale");
    return emit(call, "Elu", {x}, {{"alpha", real(number(call, "alpha"))}});
  }
  if (op == "selu") return emit(call, "Selu", {x});
  if (op == "softplus") {
    const double beta = number(call, "beta"), threshold = number(call, "threshold");
    const std::string scaled = beta == 1 ? x : emit(call, "Mul", {x, scalar(beta)});
    std::string y = emit(call, "Softplus", {scaled});
    if (beta != 1) y = emit(call, "Div", {y, scalar(beta)});
    constexpr double hidden_by_rounding = 20;  // softplus(20) = 20 + 2e-9
    if (threshold >= hidden_by_rounding) return y;
    return emit(call, "Where", {emit(call, "Greater", {scaled, scalar(threshold)}), x, y});
  }
  if (op == "rsqrt") return emit(call, "Reciprocal", {emit(call, "Sqrt", {x})});
  if (op == "square") return emit(call, "Mul", {x, x});
  if (op == "prelu") {
    const Sizes &input = sizes(value(call, "self")), &slope = sizes(value(call, "weight"));
    std::string weight = tensor(call, "weight");
    if (slope.size() == 1 && input.size() > 2) {
      Sizes wide = slope;
      wide.resize(input.size() - 1, {.constant = 1});
      weight = reshape(call, weight, wide);
    }
    return emit(call, "PRelu", {x, weight});
  }
  // gelu
  if (text(call, "approximate") == "tanh") {
    constexpr double cubic = 0.044715;
    const std::string cube = emit(call, "Mul", {emit(call, "Mul", {x, x}), x});
    const std::string sum = emit(call, "Add", {x, emit(call, "Mul", {cube, scalar(cubic)})});
    const std::string inner =
        emit(call, "Tanh", {emit(call, "Mul", {sum, scalar(std::sqrt(2 / std::numbers::pi))})});
    return emit(call, "Mul", {emit(call, "Mul", {x, scalar(0.5)}), emit(call, "Add", {inner, scalar(1)})});
  }
  const std::string error = emit(call, "Erf", {emit(call, "Mul", {x, scalar(std::numbers::sqrt2 / 2)})});
  return emit(call, "Mul", {emit(call, "Mul", {x, scalar(0.5)}), emit(call, "Add", {error, scalar(1)})});
}

/// Repeats a single number for each dimension.
inline std::vector<std::int64_t> for_each_dimension(std::vector<std::int64_t> numbers,
                                                    std::size_t dimensions) {
  if (numbers.size() == 1) numbers.resize(dimensions, numbers[0]);
  return numbers;
}

/// Returns ONNX's `pads` for paddings that are the same on both sides.
inline std::vector<std::int64_t> both_sides(const std::vector<std::int64_t>& padding) {
  std::vector<std::int64_t> pads = padding;
  pads.insert(pads.end(), padding.begin(), padding.end());
  return pads;
}

REFINE_INLINE std::string GraphWriter::convolution(const Call& call) {
  const std::string of_weight = "weight", of_input = "input";
  const Sizes weight = sizes(value(call, of_weight));
  const std::size_t dimensions = weight.size() - 2;
  if (sizes(value(call, of_input)).size() != weight.size()) fail(call, "takes images without a batch");
  const bool is_transposed =
      call.op.starts_with("conv_transpose") || (call.op == "convolution" && flag(call, "transposed"));
  const auto strides = for_each_dimension(integers(call, "stride"), dimensions);
  const auto dilations = for_each_dimension(integers(call, "dilation"), dimensions);
  std::vector<std::int64_t> kernel, pads;
  for (std::size_t d = 0; d < dimensions; ++d) kernel.push_back(fixed(call, weight[d + 2]));
  const auto* padding = argument(call, "padding");
  if (padding && std::holds_alternative<std::string>(*padding)) {
    pads.assign(2 * dimensions, 0);
    for (std::size_t d = 0; d < dimensions && std::get<std::string>(*padding) == "same"; ++d) {
      const std::int64_t total = dilations[d] * (kernel[d] - 1);
      pads[d] = total / 2;
      pads[dimensions + d] = total - total / 2;
    }
  } else {
    pads = both_sides(for_each_dimension(integers(call, "padding"), dimensions));
  }
  Attributes attributes = {{"kernel_shape", kernel},
                           {"strides", strides},
                           {"dilations", dilations},
                           {"pads", pads},
                           {"group", integer(call, "groups")}};
  if (is_transposed) {
    attributes["output_padding"] = for_each_dimension(integers(call, "output_padding"), dimensions);
  }
  std::vector<std::string> inputs = {tensor(call, of_input), tensor(call, of_weight)};
  if (has(call, "bias")) inputs.push_back(tensor(call, "bias"));
  return emit(call, is_transposed ? "ConvTranspose" : "Conv", std::move(inputs), std::move(attributes));
}

REFINE_INLINE std::string GraphWriter::linear(const Call& call) {
  const std::string& weight = value(call, "weight");
  std::vector<std::string> inputs = {tensor(call, "input")};
  const bool has_bias = has(call, "bias");
  if (sizes(value(call, "input")).size() == 2 && sizes(weight).size() == 2) {
    inputs.push_back(use(call, weight));
    if (has_bias) inputs.push_back(tensor(call, "bias"));
    return emit(call, "Gemm", std::move(inputs), {{"transB", std::int64_t{1}}});
  }
  if (constants_.contains(weight) && !last_write_.contains(group_of(weight)) && sizes(weight).size() == 2) {
    std::string& name = shared_["transposed " + weight];
    if (name.empty()) name = initializer(stored_name(weight) + ".T", content_of(weight).t());
    inputs.push_back(name);
  } else {
    inputs.push_back(emit(call, "Transpose", {use(call, weight)}));
  }
  const std::string product = emit(call, "MatMul", std::move(inputs));
  return has_bias ? emit(call, "Add", {product, tensor(call, "bias")}) : product;
}

REFINE_INLINE std::string GraphWriter::multiplication(const Call& call) {
  if (call.op == "einsum") {
    std::vector<std::string> inputs;
    for (const std::string& each : values(call, "tensors")) inputs.push_back(use(call, each));
    return emit(call, "Einsum", std::move(inputs), {{"equation", text(call, "equation")}});
  }
  if (call.op != "addmm" && call.op != "baddbmm") {
    const std::string second = call.op == "matmul" ? "other" : call.op == "mv" ? "vec" : "mat2";
    return emit(call, "MatMul", {tensor(call, "self"), tensor(call, second)});
  }
  const bool is_batch = call.op == "baddbmm";
  std::string product =
      emit(call, "MatMul",
           {tensor(call, is_batch ? "batch1" : "mat1"), tensor(call, is_batch ? "batch2" : "mat2")});
  std::string addend = tensor(call, "self");
  if (number(call, "alpha") != 1) product = emit(call, "Mul", {product, scalar(number(call, "alpha"))});
  if (number(call, "beta") == 0) return product;
  if (number(call, "beta") != 1) addend = emit(call, "Mul", {addend, scalar(number(call, "beta"))});
  return emit(call, "Add", {product, addend});
}

REFINE_INLINE std::string GraphWriter::normalization(const Call& call) {
  const bool is_instance = call.op == "instance_norm";
  if (flag(call, "training") || (!is_instance && flag(call, "train"))) fail(call, "is in training mode");
  const Sizes& input = sizes(value(call, "input"));
  const std::int64_t channels = fixed(call, input.at(1));
  const auto parameter = [&](const char* name, double otherwise) {
    if (has(call, name)) return tensor(call, name);
    std::string& shared = shared_[fmt::format("full {} {}", channels, otherwise)];
    if (shared.empty()) shared = initializer("full", at::full({channels}, otherwise));
    return shared;
  };
  const std::string x = tensor(call, "input"), weight = parameter("weight", 1), bias = parameter("bias", 0);
  const float epsilon = static_cast<float>(number(call, "eps"));
  if (is_instance && flag(call, "use_input_stats"))
    return emit(call, "InstanceNormalization", {x, weight, bias}, {{"epsilon", epsilon}});
  if (!has(call, "running_mean") || !has(call, "running_var")) fail(call, "has no running statistics");
  return emit(call, "BatchNormalization",
              {x, weight, bias, tensor(call, "running_mean"), tensor(call, "running_var")},
              {{"epsilon", epsilon}});
}

REFINE_INLINE std::string GraphWriter::layer_norm(const Call& call) {
  const auto shape = integers(call, "normalized_shape");
  const std::int64_t rank = rank_of(sizes(value(call, "input"))),
                     count = static_cast<std::int64_t>(shape.size());
  const std::string x = tensor(call, "input");
  constexpr std::int64_t with_layer_norm = 17;
  if (opset_ >= with_layer_norm) {
    std::string& ones = shared_[fmt::format("ones {}", fmt::join(shape, "x"))];
    if (!has(call, "weight") && ones.empty()) ones = initializer("ones", at::ones(shape));
    std::vector<std::string> inputs = {x, has(call, "weight") ? tensor(call, "weight") : ones};
    if (has(call, "bias")) inputs.push_back(tensor(call, "bias"));
    return emit(call, "LayerNormalization", std::move(inputs),
                {{"axis", rank - count}, {"epsilon", static_cast<float>(number(call, "eps"))}});
  }
  std::vector<std::int64_t> axes;
  for (std::int64_t d = rank - count; d < rank; ++d) axes.push_back(d);
  std::string y = standardize(call, x, axes, number(call, "eps"));
  if (has(call, "weight")) y = emit(call, "Mul", {y, tensor(call, "weight")});
  if (has(call, "bias")) y = emit(call, "Add", {y, tensor(call, "bias")});
  return y;
}

REFINE_INLINE std::string GraphWriter::group_norm(const Call& call) {
  const Sizes& input = sizes(value(call, "input"));
  const std::int64_t groups = integer(call, call.op == "group_norm" ? "num_groups" : "group");
  if (groups < 1) fail(call, "has no groups");
  std::int64_t per_group = fixed(call, input.at(1)) / groups;
  for (std::size_t d = 2; d < input.size(); ++d) per_group *= fixed(call, input[d]);
  const std::string grouped =
      reshape(call, tensor(call, "input"), {input[0], {.constant = groups}, {.constant = per_group}});
  std::string y = reshape(call, standardize(call, grouped, {2}, number(call, "eps")), input);
  Sizes channels(input.size() - 1, {.constant = 1});
  channels[0] = input[1];
  if (has(call, "weight")) y = emit(call, "Mul", {y, reshape(call, tensor(call, "weight"), channels)});
  if (has(call, "bias")) y = emit(call, "Add", {y, reshape(call, tensor(call, "bias"), channels)});
  return y;
}

REFINE_INLINE std::string GraphWriter::pooling(const Call& call) {
  const bool is_max = call.op.starts_with("max");
  const Sizes &input = sizes(value(call, "self")), &output = sizes(result(call));
  const auto kernel = for_each_dimension(integers(call, "kernel_size"), 2);
  auto strides = for_each_dimension(integers(call, "stride"), 2);
  if (strides.empty()) strides = kernel;
  const auto padding = for_each_dimension(integers(call, "padding"), 2);
  const auto dilations =
      is_max ? for_each_dimension(integers(call, "dilation"), 2) : std::vector<std::int64_t>{1, 1};
  if (input.size() != 4) fail(call, "takes images without a batch");
  // The last window of ceil_mode may reach beyond the padding.
  std::vector<std::int64_t> beyond(2), height_width(2), result_size(2);
  for (std::size_t d = 0; d < 2; ++d) {
    height_width[d] = fixed(call, input[d + 2]);
    result_size[d] = fixed(call, output[d + 2]);
    beyond[d] = std::max<std::int64_t>((result_size[d] - 1) * strides[d] + dilations[d] * (kernel[d] - 1) +
                                           1 - height_width[d] - 2 * padding[d],
                                       0);
  }
  const bool is_plain = beyond[0] == 0 && beyond[1] == 0;
  auto pads = both_sides(padding);
  std::string x = tensor(call, "self");
  if (is_max) {
    pads[2] += beyond[0];
    pads[3] += beyond[1];
    if (pads[2] >= kernel[0] || pads[3] >= kernel[1]) {  // ONNX Runtime's MaxPool refuses as much
      const std::vector<std::int64_t> around = {0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]};
      x = emit(call, "Pad", {x, list(around), scalar(-std::numeric_limits<double>::infinity())});
      pads.assign(4, 0);
    }
    return emit(call, "MaxPool", {x},
                {{"kernel_shape", kernel}, {"strides", strides}, {"dilations", dilations}, {"pads", pads}});
  }
  const bool counts_padding = flag(call, "count_include_pad");
  if (is_plain && !has(call, "divisor_override")) {
    return emit(call, "AveragePool", {x},
                {{"kernel_shape", kernel},
                 {"strides", strides},
                 {"pads", pads},
                 {"count_include_pad", std::int64_t{counts_padding}}});
  }
  if (has(call, "divisor_override")) fail(call, "has another divisor");
  // Each window is a product of a range of rows and one of columns.
  const auto averages = [&](std::size_t d) {
    at::Tensor matrix = at::zeros({result_size[d], height_width[d]});
    for (std::int64_t i = 0; i < result_size[d]; ++i) {
      const std::int64_t begin = i * strides[d] - padding[d];
      const std::int64_t end = std::min(begin + kernel[d], height_width[d] + padding[d]);
      const std::int64_t first = std::max<std::int64_t>(begin, 0), last = std::min(end, height_width[d]);
      const std::int64_t count = counts_padding ? end - begin : last - first;
      matrix[i].narrow(0, first, last - first).fill_(1.0 / static_cast<double>(count));
    }
    return matrix;
  };
  return resample(call, x, averages(0), averages(1).t());
}

REFINE_INLINE std::string GraphWriter::adaptive_pooling(const Call& call) {
  const bool is_max = call.op.find("max") != std::string::npos;
  const std::string x = tensor(call, "self");
  const Sizes &input = sizes(value(call, "self")), &output = sizes(result(call));
  if (input.size() != 4) fail(call, "takes images without a batch");
  std::vector<std::int64_t> from(2), to(2), kernel(2);
  bool divides = true, is_global = true, is_same = true;
  for (std::size_t d = 0; d < 2; ++d) {
    from[d] = fixed(call, input[d + 2]);
    to[d] = fixed(call, output[d + 2]);
    if (to[d] == 0) fail(call, "has an empty result");
    divides = divides && from[d] % to[d] == 0;
    is_global = is_global && to[d] == 1;
    is_same = is_same && from[d] == to[d];
    kernel[d] = std::max<std::int64_t>(from[d] / to[d], 1);
  }
  if (is_same) return x;
  if (is_global) return emit(call, is_max ? "GlobalMaxPool" : "GlobalAveragePool", {x});
  if (divides) {
    return emit(call, is_max ? "MaxPool" : "AveragePool", {x},
                {{"kernel_shape", kernel}, {"strides", kernel}});
  }
  if (is_max) fail(call, "has windows of different sizes");
  const auto averages = [&](std::size_t d) {
    at::Tensor matrix = at::zeros({to[d], from[d]});
    for (std::int64_t i = 0; i < to[d]; ++i) {
      const std::int64_t first = i * from[d] / to[d], end = ((i + 1) * from[d] + to[d] - 1) / to[d];
      matrix[i].narrow(0, first, end - first).fill_(1.0 / static_cast<double>(end - first));
    }
    return matrix;
  };
  return resample(call, x, averages(0), averages(1).t());
}

/// Returns axes that are counted from 0.
inline std::vector<std::int64_t> from_zero(std::vector<std::int64_t> axes, std::size_t rank) {
  for (std::int64_t& axis : axes) axis += axis < 0 ? static_cast<std::int64_t>(rank) : 0;
  return axes;
}

REFINE_INLINE std::string GraphWriter::reduction(const Call& call) {
  static const std::map<std::string_view, const char*> ops = {
      {"mean", "ReduceMean"}, {"sum", "ReduceSum"}, {"amax", "ReduceMax"}, {"amin", "ReduceMin"},
      {"max", "ReduceMax"},   {"min", "ReduceMin"}, {"prod", "ReduceProd"}};
  const std::size_t rank = sizes(value(call, "self")).size();
  if (has(call, "other")) return arithmetic(call);  // max and min of two tensors
  if (call.op == "argmax") {
    if (!has(call, "dim")) fail(call, "works on all dimensions");
    return emit(call, "ArgMax", {tensor(call, "self")},
                {{"axis", axis(call, "dim", rank)}, {"keepdims", std::int64_t{flag(call, "keepdim")}}});
  }
  if (type(result(call)) == ElementType::boolean) {
    const std::string numbers =
        cast(call, tensor(call, "self"), type(value(call, "self")), ElementType::float32);
    const std::string extreme =
        reduce(call,
               call.op == "any"   ? "ReduceMax"
               : call.op == "all" ? "ReduceMin"
                                  : ops.at(call.op),
               emit(call, "Abs", {numbers}), from_zero(integers(call, "dim"), rank), flag(call, "keepdim"));
    return cast(call, extreme, ElementType::float32, ElementType::boolean);
  }
  const std::string x = cast(call, tensor(call, "self"), type(value(call, "self")), type(result(call)));
  if (call.op == "linalg_vector_norm") {
    if (number(call, "ord") != 2) fail(call, "has another order than 2");
    return reduce(call, "ReduceL2", x, from_zero(integers(call, "dim"), rank), flag(call, "keepdim"));
  }
  return reduce(call, ops.at(call.op), x, from_zero(integers(call, "dim"), rank), flag(call, "keepdim"));
}

REFINE_INLINE std::string GraphWriter::variance(const Call& call) {
  const Sizes& input = sizes(value(call, "self"));
  std::vector<std::int64_t> axes = from_zero(integers(call, "dim"), input.size());
  for (std::int64_t d = 0; axes.empty() && d < rank_of(input); ++d) axes.push_back(d);
  std::int64_t count = 1;
  for (const std::int64_t d : axes) count *= fixed(call, input.at(static_cast<std::size_t>(d)));
  double correction = 1;
  if (call.given.contains("unbiased")) correction = flag(call, "unbiased") ? 1 : 0;
  if (argument(call, "correction")) correction = number(call, "correction");
  const std::string x = tensor(call, "self");
  const std::string centred = emit(call, "Sub", {x, reduce(call, "ReduceMean", x, axes, /*keep=*/true)});
  const std::string sum =
      reduce(call, "ReduceSum", emit(call, "Mul", {centred, centred}), axes, flag(call, "keepdim"));
  const std::string result =
      emit(call, "Div", {sum, scalar(std::max(static_cast<double>(count) - correction, 0.0))});
  return call.op == "std" ? emit(call, "Sqrt", {result}) : result;
}

REFINE_INLINE std::string GraphWriter::softmax(const Call& call) {
  const std::string& input = value(call, "self");
  return emit(call, call.op.find("log") != std::string::npos ? "LogSoftmax" : "Softmax",
              {cast(call, use(call, input), type(input), type(result(call)))},
              {{"axis", axis(call, "dim", sizes(input).size())}});
}

REFINE_INLINE std::string GraphWriter::new_shape(const Call& call) {
  if (type(value(call, "self")) != type(result(call))) fail(call, "reads a tensor's bytes as another type");
  return reshape(call, tensor(call, "self"), sizes(result(call)));
}

REFINE_INLINE std::string GraphWriter::permutation(const Call& call) {
  const std::size_t rank = sizes(value(call, "self")).size();
  std::vector<std::int64_t> order;
  for (std::size_t d = 0; d < rank; ++d) order.push_back(static_cast<std::int64_t>(d));
  if (call.op == "permute") {
    order = from_zero(integers(call, "dims"), rank);
  } else if (call.op == "t" || call.op == "numpy_T" || call.op == "mT") {
    if (call.op == "numpy_T") {
      std::ranges::reverse(order);
    } else if (rank >= 2) {
      std::swap(order[rank - 1], order[rank - 2]);
    }
  } else if (call.op == "movedim") {
    const auto from = from_zero(integers(call, "source"), rank),
               to = from_zero(integers(call, "destination"), rank);
    std::vector<std::int64_t> rest;
    for (const std::int64_t d : order) {
      if (std::ranges::find(from, d) == from.end()) rest.push_back(d);
    }
    std::vector<std::int64_t> moved(rank, -1);
    for (std::size_t i = 0; i < from.size(); ++i) moved[static_cast<std::size_t>(to.at(i))] = from[i];
    std::size_t next = 0;
    for (std::int64_t& d : moved) d = d < 0 ? rest.at(next++) : d;
    order = moved;
  } else {
    const bool is_transpose = call.op == "transpose" || call.op == "swapdims";
    const auto a = static_cast<std::size_t>(axis(call, is_transpose ? "dim0" : "axis0", rank));
    const auto b = static_cast<std::size_t>(axis(call, is_transpose ? "dim1" : "axis1", rank));
    std::swap(order.at(a), order.at(b));
  }
  return emit(call, "Transpose", {tensor(call, "self")}, {{"perm", order}});
}

REFINE_INLINE std::string GraphWriter::expansion(const Call& call) {
  return emit(call, "Expand", {tensor(call, "self"), shape(sizes(result(call)))});
}

REFINE_INLINE std::string GraphWriter::repetition(const Call& call) {
  const Sizes &input = sizes(value(call, "self")), &output = sizes(result(call));
  std::string x = tensor(call, "self");
  Sizes wide(output.size() - input.size(), {.constant = 1});
  wide.insert(wide.end(), input.begin(), input.end());
  if (wide.size() != input.size()) x = reshape(call, x, wide);
  std::vector<std::string> times;
  for (std::size_t d = 0; d < output.size(); ++d) {
    const BatchInteger &from = wide[d], &to = output[d];
    if (from == to) {
      times.push_back(list({1}));
    } else if (from.per_image == 0 && from.constant > 0 && to.per_image % from.constant == 0 &&
               to.constant % from.constant == 0) {
      times.push_back(size_of({to.per_image / from.constant, to.constant / from.constant}));
    } else if (from.per_image > 0 && from.constant == 0 && to.constant == 0) {
      times.push_back(list({to.per_image / from.per_image}));
    } else {
      fail(call, "repeats the dimension of the images");
    }
  }
  return emit(call, "Tile", {x, emit(call, "Concat", std::move(times), {{"axis", std::int64_t{0}}})});
}

REFINE_INLINE std::string GraphWriter::concatenation(const Call& call) {
  const ElementType wanted = type(result(call));
  const Sizes& output = sizes(result(call));
  const std::int64_t along = axis(call, "dim", output.size());
  std::vector<std::string> inputs;
  for (const std::string& each : values(call, "tensors")) {
    const Sizes& size = sizes(each);
    if (size.size() == 1 && output.size() != 1 && call.op != "stack" && size[0] == BatchInteger{}) continue;
    std::string input = cast(call, use(call, each), type(each), wanted);
    if (call.op == "stack") {
      Sizes wide = size;
      wide.insert(wide.begin() + along, {.constant = 1});
      input = reshape(call, input, wide);
    }
    inputs.push_back(std::move(input));
  }
  return emit(call, "Concat", std::move(inputs), {{"axis", along}});
}

REFINE_INLINE void GraphWriter::split(const Call& call) {
  const auto* list_output = std::get_if<std::vector<formats::ValueName>>(&call.node.outputs.at(0));
  if (!list_output) fail(call, "returns no list");
  const Sizes& input = sizes(value(call, "self"));
  const std::int64_t along = axis(call, "dim", input.size());
  const bool is_unbind = call.op == "unbind";
  std::vector<std::int64_t> lengths;
  for (const formats::ValueName& each : *list_output) {
    const auto known = source_.program.tensors.find(each.name);
    if (known == source_.program.tensors.end()) fail(call, "has a part of unknown size");
    lengths.push_back(is_unbind ? 1 : fixed(call, known->second.sizes.at(static_cast<std::size_t>(along))));
  }
  const std::string x = tensor(call, "self");
  if (lengths.size() == 1) {
    names_[list_output->front().name] = is_unbind ? reshape(call, x, sizes(list_output->front().name)) : x;
    return;
  }
  const auto parts = emit_several(call, "Split", {x, list(lengths)}, {{"axis", along}}, lengths.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string& name = (*list_output)[i].name;
    names_[name] = is_unbind ? reshape(call, parts[i], sizes(name)) : parts[i];
  }
}

REFINE_INLINE std::string GraphWriter::slice(const Call& call) {
  const Sizes &input = sizes(value(call, "self")), &output = sizes(result(call));
  const std::int64_t along = axis(call, "dim", input.size());
  const BatchInteger extent = input.at(static_cast<std::size_t>(along));
  const std::string x = tensor(call, "self");
  // A limit is a number or depends on the number of images.
  const auto limit = [&](const char* name, std::int64_t otherwise) -> std::string {
    const auto* given = argument(call, name);
    if (const auto* computed = given ? std::get_if<formats::ValueName>(given) : nullptr) {
      const auto found = source_.program.integers.find(computed->name);
      if (found == source_.program.integers.end()) fail(call, "has a limit that is a tensor");
      return size_of(found->second);
    }
    return list({given ? integer(call, name) : otherwise});
  };
  if (call.op == "narrow") {
    BatchInteger start = {.constant = integer(call, "start")};
    if (start.constant < 0) start = {extent.per_image, extent.constant + start.constant};
    const BatchInteger length = output.at(static_cast<std::size_t>(along));
    const BatchInteger end = {start.per_image + length.per_image, start.constant + length.constant};
    return emit(call, "Slice", {x, size_of(start), size_of(end), list({along})});
  }
  const std::int64_t step = integer(call, "step");
  if (output.at(static_cast<std::size_t>(along)) == extent && step == 1) return x;
  return emit(call, "Slice",
              {x, limit("start", 0), limit("end", std::numeric_limits<std::int64_t>::max()), list({along}),
               list({step})});
}

REFINE_INLINE std::string GraphWriter::selection(const Call& call) {
  const Sizes& input = sizes(value(call, "self"));
  return emit(call, "Gather",
              {tensor(call, "self"), scalar(static_cast<double>(integer(call, "index")), ElementType::int64)},
              {{"axis", axis(call, "dim", input.size())}});
}

REFINE_INLINE std::string GraphWriter::gather(const Call& call) {
  if (call.op == "embedding") {
    return emit(call, "Gather", {tensor(call, "weight"), tensor(call, "indices")},
                {{"axis", std::int64_t{0}}});
  }
  if (call.op == "index_select") {
    return emit(call, "Gather", {tensor(call, "self"), tensor(call, "index")},
                {{"axis", axis(call, "dim", sizes(value(call, "self")).size())}});
  }
  const auto* given = argument(call, "indices");
  const auto* indices = given ? std::get_if<std::vector<std::optional<formats::ValueName>>>(given) : nullptr;
  std::vector<std::optional<formats::ValueName>> list;
  if (indices) list = *indices;
  if (given && !indices) {
    for (const std::string& each : values(call, "indices")) list.emplace_back(formats::ValueName{each});
  }
  std::optional<std::size_t> position;
  for (std::size_t d = 0; d < list.size(); ++d) {
    if (!list[d]) continue;
    if (position) fail(call, "has several indices");
    position = d;
  }
  if (!position || type(list[*position]->name) != ElementType::int64)
    fail(call, "has an index of another kind");
  return emit(call, "Gather", {tensor(call, "self"), use(call, list[*position]->name)},
              {{"axis", static_cast<std::int64_t>(*position)}});
}

REFINE_INLINE std::string GraphWriter::roll(const Call& call) {
  const Sizes& input = sizes(value(call, "self"));
  std::string x = tensor(call, "self");
  const auto axes = from_zero(integers(call, "dims"), input.size());
  constexpr std::int64_t end = std::numeric_limits<std::int64_t>::max();
  if (call.op == "flip") {
    return emit(call, "Slice",
                {x, list(std::vector<std::int64_t>(axes.size(), -1)),
                 list(std::vector<std::int64_t>(axes.size(), std::numeric_limits<std::int64_t>::min())),
                 list(axes), list(std::vector<std::int64_t>(axes.size(), -1))});
  }
  const auto shifts = integers(call, "shifts");
  if (axes.size() != shifts.size()) fail(call, "works on all dimensions");
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const std::int64_t size = fixed(call, input.at(static_cast<std::size_t>(axes[i])));
    if (size == 0) fail(call, "has an empty result");
    const std::int64_t cut = size - ((shifts[i] % size) + size) % size;
    if (cut == size) continue;
    const std::string along = list({axes[i]});
    const std::string back = emit(call, "Slice", {x, list({cut}), list({end}), along});
    const std::string front = emit(call, "Slice", {x, list({0}), list({cut}), along});
    x = emit(call, "Concat", {back, front}, {{"axis", axes[i]}});
  }
  return x;
}

REFINE_INLINE std::string GraphWriter::padding(const Call& call) {
  const std::size_t rank = sizes(value(call, "self")).size();
  const auto given = integers(call, call.op == "pad" || call.op == "constant_pad_nd" ? "pad" : "padding");
  std::vector<std::int64_t> pads(2 * rank, 0);
  for (std::size_t i = 0; i + 1 < given.size(); i += 2) {  // from the last dimension on
    const std::size_t d = rank - 1 - i / 2;
    pads.at(d) = given[i];
    pads.at(rank + d) = given[i + 1];
  }
  std::string mode = call.op == "pad" ? text(call, "mode") : "constant";
  if (call.op.starts_with("reflection")) mode = "reflect";
  if (call.op.starts_with("replication")) mode = "replicate";
  if (mode == "replicate") mode = "edge";
  if (mode == "circular") fail(call, "pads in circles");
  std::vector<std::string> inputs = {tensor(call, "self"), list(pads)};
  if (mode == "constant" && argument(call, "value")) {
    inputs.push_back(scalar(number(call, "value"), type(result(call))));
  }
  return emit(call, "Pad", std::move(inputs), {{"mode", mode}});
}

REFINE_INLINE std::string GraphWriter::upsampling(const Call& call) {
  const std::string images = call.given.contains("self") ? "self" : "input";
  const Sizes &input = sizes(value(call, images)), &output = sizes(result(call));
  const std::string x = tensor(call, images);
  // Along one dimension, an image is multiplied by a matrix. LibTorch computes it, from an image that is
  // the identity, so that its conventions hold exactly.
  const auto matrix = [&](std::size_t dimension) {
    const std::int64_t from = fixed(call, input.at(dimension)), to = fixed(call, output.at(dimension));
    const bool is_height = dimension == 2;
    const at::Tensor identity =
        at::zeros({1, from, from})
            .copy_(
                (at::arange(from).unsqueeze(0) == at::arange(from).unsqueeze(1)).to(at::kFloat).unsqueeze(0));
    torch::jit::Stack stack;
    for (const c10::Argument& parameter : call.handle->schema().arguments()) {
      const std::string& name = parameter.name();
      if (name == "self" || name == "input") {
        // Two equal columns: LibTorch 2.13's antialiased operators repeat the first row of images of one.
        stack.emplace_back(is_height
                               ? identity.view({1, from, from, 1}).expand({1, from, from, 2}).contiguous()
                               : identity.view({1, from, 1, from}));
      } else if (name == "output_size") {
        stack.emplace_back(is_height ? std::vector<std::int64_t>{to, 2} : std::vector<std::int64_t>{1, to});
      } else if (name == "align_corners") {
        stack.emplace_back(flag(call, name));
      } else if (name == "scale_factors") {
        stack.emplace_back(c10::IValue());
      } else {  // scales_h, scales_w
        const bool is_own = name == (is_height ? "scales_h" : "scales_w");
        stack.emplace_back(is_own && argument(call, name) ? c10::IValue(number(call, name)) : c10::IValue());
      }
    }
    if (const auto* factors = argument(call, "scale_factors")) {
      const auto* list = std::get_if<std::vector<double>>(factors);
      for (std::size_t i = 0; list && i < stack.size(); ++i) {
        const std::string& name = call.handle->schema().arguments()[i].name();
        if (name == "output_size") stack[i] = c10::IValue();
        if (name == "scale_factors") {
          stack[i] =
              is_height ? std::vector<double>{list->at(0), 1.0} : std::vector<double>{1.0, list->at(1)};
        }
      }
    }
    call.handle->callBoxed(stack);
    const at::Tensor weights = stack.at(0).toTensor().squeeze(0);  // position, then result
    return is_height ? weights.select(2, 0) : weights.squeeze(1);
  };
  if (input.size() != 4) fail(call, "takes images without a batch");
  // ONNX's operator where both have the same conventions: the ratio of the sizes is the scale.
  const bool is_bilinear = call.op == "upsample_bilinear2d", is_nearest = call.op == "upsample_nearest2d";
  bool is_ratio = true;
  for (std::size_t d = 2; d < 4; ++d) {
    double scale = static_cast<double>(fixed(call, output[d])) / static_cast<double>(fixed(call, input[d]));
    const char* name = d == 2 ? "scales_h" : "scales_w";
    if (argument(call, name)) is_ratio = is_ratio && number(call, name) == scale;
    const auto* factors = argument(call, "scale_factors");
    const auto* list = factors ? std::get_if<std::vector<double>>(factors) : nullptr;
    if (list) is_ratio = is_ratio && list->at(d - 2) == scale;
  }
  if ((!is_bilinear && !is_nearest) || !is_ratio) return resample(call, x, matrix(2).t(), matrix(3));
  const std::string coordinates = is_nearest                    ? "asymmetric"
                                  : flag(call, "align_corners") ? "align_corners"
                                                                : "half_pixel";
  Attributes attributes = {{"mode", is_nearest ? "nearest" : "linear"},
                           {"coordinate_transformation_mode", coordinates}};
  if (is_nearest) attributes["nearest_mode"] = "floor";
  return emit(call, "Resize", {x, "", "", shape(output)}, std::move(attributes));
}

REFINE_INLINE std::string GraphWriter::shuffle(const Call& call) {
  const Sizes &input = sizes(value(call, "self")), &output = sizes(result(call));
  const std::string x = tensor(call, "self");
  if (input.size() != 4) fail(call, "takes images without a batch");
  if (call.op == "channel_shuffle" || call.op == "native_channel_shuffle") {
    const std::int64_t groups = integer(call, "groups");
    if (groups < 1) fail(call, "has no groups");
    const std::string grouped = reshape(
        call, x,
        {input[0], {.constant = groups}, {.constant = fixed(call, input[1]) / groups}, input[2], input[3]});
    const std::vector<std::int64_t> order = {0, 2, 1, 3, 4};
    return reshape(call, emit(call, "Transpose", {grouped}, {{"perm", order}}), output);
  }
  const bool is_up = call.op == "pixel_shuffle";
  const std::int64_t factor = integer(call, is_up ? "upscale_factor" : "downscale_factor");
  if (is_up) return emit(call, "DepthToSpace", {x}, {{"blocksize", factor}, {"mode", "CRD"}});
  const std::string parts = reshape(
      call, x, {input[0], input[1], output[2], {.constant = factor}, output[3], {.constant = factor}});
  const std::vector<std::int64_t> order = {0, 1, 3, 5, 2, 4};
  return reshape(call, emit(call, "Transpose", {parts}, {{"perm", order}}), output);
}

/// Tensors of one number, whose size depends on the number of images.
REFINE_INLINE std::string GraphWriter::filling(const Call& call) {
  if (call.op == "scalar_tensor") return operand(call, "s", type(result(call)));
  double content = 0;
  if (call.op.find("ones") != std::string::npos) content = 1;
  if (call.op.find("full") != std::string::npos) content = number(call, "fill_value");
  if (call.op == "fill") content = number(call, "value");
  return emit(call, "Expand", {scalar(content, type(result(call))), shape(sizes(result(call)))});
}

REFINE_INLINE std::string GraphWriter::copy(const Call& call) {
  const std::string from = call.op == "copy" ? "src" : call.given.contains("self") ? "self" : "input";
  const std::string& input = value(call, from);
  const std::string x = cast(call, use(call, input), type(input), type(result(call)));
  if (sizes(input) == sizes(result(call))) return x;
  return emit(call, "Expand", {x, shape(sizes(result(call)))});
}

REFINE_INLINE std::string GraphWriter::choice(const Call& call) {
  const ElementType wanted = type(result(call));
  if (call.op == "masked_fill") {
    return emit(call, "Where",
                {tensor(call, "mask"), operand(call, "value", wanted), operand(call, "self", wanted)});
  }
  return emit(call, "Where",
              {operand(call, "condition", ElementType::boolean), operand(call, "self", wanted),
               operand(call, "other", wanted)});
}

REFINE_INLINE std::string GraphWriter::scaled_attention(const Call& call) {
  if (flag(call, "is_causal") || flag(call, "enable_gqa")) fail(call, "is for texts");
  const Sizes& query = sizes(value(call, "query"));
  const std::size_t rank = query.size();
  const double width = static_cast<double>(fixed(call, query.back()));
  const double scale = has(call, "scale") ? number(call, "scale") : 1 / std::sqrt(width);
  std::vector<std::int64_t> order;
  for (std::size_t d = 0; d < rank; ++d) order.push_back(static_cast<std::int64_t>(d));
  std::swap(order.at(rank - 1), order.at(rank - 2));
  const std::string scaled = emit(call, "Mul", {tensor(call, "query"), scalar(scale)});
  const std::string keys = emit(call, "Transpose", {tensor(call, "key")}, {{"perm", order}});
  std::string scores = emit(call, "MatMul", {scaled, keys}), visible;
  if (has(call, "attn_mask")) {
    const std::string &given = value(call, "attn_mask"), mask = use(call, given);
    if (type(given) == ElementType::boolean) {
      visible = mask;
      scores = emit(call, "Where", {mask, scores, scalar(std::numeric_limits<float>::lowest())});
    } else {
      const double nothing = -std::numeric_limits<double>::infinity();
      if (!constants_.contains(given) || content_of(given).eq(nothing).any().item<bool>())
        visible = emit(call, "Greater", {mask, scalar(nothing)});
      scores = emit(call, "Add", {scores, mask});
    }
  }
  std::string shares = emit(call, "Softmax", {scores}, {{"axis", std::int64_t{-1}}});
  // What sees nothing gets zeros.
  if (!visible.empty()) shares = emit(call, "Where", {visible, shares, scalar(0)});
  return emit(call, "MatMul", {shares, tensor(call, "value")});
}

REFINE_INLINE const std::map<std::string, GraphWriter::Handler>& GraphWriter::handlers() {
  static const std::map<std::string, Handler> all = [] {
    std::map<std::string, Handler> table;
    const auto add = [&](std::initializer_list<const char*> ops, Handler handler) {
      for (const char* op : ops) table[op] = handler;
    };
    add({"add", "sub", "mul", "div", "rsub", "true_divide", "multiply", "divide", "subtract", "maximum",
         "minimum", "floor_divide", "pow", "fmax", "fmin"},
        &GraphWriter::arithmetic);
    add({"gt", "ge", "lt", "le", "eq", "ne", "greater", "less", "logical_and", "logical_or", "bitwise_and",
         "bitwise_or", "__and__", "__or__"},
        &GraphWriter::comparison);
    add({"relu",        "sigmoid",     "tanh",          "exp",        "log",   "sqrt",
         "neg",         "negative",    "abs",           "absolute",   "floor", "ceil",
         "round",       "erf",         "reciprocal",    "sin",        "cos",   "sign",
         "logical_not", "bitwise_not", "special_expit", "special_erf"},
        &GraphWriter::elementwise);
    add({"relu6", "clamp", "clip", "hardtanh", "clamp_min", "clamp_max", "hardsigmoid", "hardswish", "silu",
         "mish", "log_sigmoid", "leaky_relu", "elu", "selu", "softplus", "rsqrt", "square", "prelu", "gelu"},
        &GraphWriter::activation);
    add({"conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
         "conv_transpose3d"},
        &GraphWriter::convolution);
    add({"linear"}, &GraphWriter::linear);
    add({"addmm", "baddbmm", "mm", "bmm", "mv", "matmul", "einsum"}, &GraphWriter::multiplication);
    add({"batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm", "instance_norm"},
        &GraphWriter::normalization);
    add({"layer_norm", "native_layer_norm"}, &GraphWriter::layer_norm);
    add({"group_norm", "native_group_norm"}, &GraphWriter::group_norm);
    add({"max_pool2d", "max_pool2d_with_indices", "avg_pool2d"}, &GraphWriter::pooling);
    add({"adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"},
        &GraphWriter::adaptive_pooling);
    add({"mean", "sum", "amax", "amin", "max", "min", "prod", "argmax", "any", "all", "linalg_vector_norm"},
        &GraphWriter::reduction);
    add({"var", "std"}, &GraphWriter::variance);
    add({"softmax", "_softmax", "log_softmax", "_log_softmax", "special_softmax", "special_log_softmax"},
        &GraphWriter::softmax);
    add({"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as",
         "reshape_as", "view_copy", "squeeze_copy", "unsqueeze_copy"},
        &GraphWriter::new_shape);
    add({"permute", "transpose", "t", "numpy_T", "mT", "movedim", "swapdims", "swapaxes"},
        &GraphWriter::permutation);
    add({"expand", "expand_as", "broadcast_to", "expand_copy"}, &GraphWriter::expansion);
    add({"repeat", "tile"}, &GraphWriter::repetition);
    add({"cat", "concat", "concatenate", "stack"}, &GraphWriter::concatenation);
    add({"slice", "narrow", "slice_copy"}, &GraphWriter::slice);
    add({"select", "select_copy"}, &GraphWriter::selection);
    add({"index_select", "index", "embedding"}, &GraphWriter::gather);
    add({"roll", "flip"}, &GraphWriter::roll);
    add({"pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"}, &GraphWriter::padding);
    add({"upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
         "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d"},
        &GraphWriter::upsampling);
    add({"pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"},
        &GraphWriter::shuffle);
    add({"zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full",
         "fill", "zero", "empty", "empty_like", "new_empty", "scalar_tensor"},
        &GraphWriter::filling);
    add({"clone", "contiguous", "detach", "detach_copy", "alias", "alias_copy", "lift_fresh",
         "lift_fresh_copy", "to", "_to_copy", "type_as", "dropout", "feature_dropout", "alpha_dropout",
         "copy", "float"},
        &GraphWriter::copy);
    add({"where", "masked_fill"}, &GraphWriter::choice);
    add({"scaled_dot_product_attention"}, &GraphWriter::scaled_attention);
    return table;
  }();
  return all;
}

REFINE_INLINE void GraphWriter::translate(const Call& call) {
  static const std::set<std::string_view> lists = {"split",        "split_with_sizes",       "chunk",
                                                   "unbind",       "tensor_split",           "unsafe_chunk",
                                                   "unsafe_split", "unsafe_split_with_sizes"};
  if (call.op.find("dropout") != std::string::npos && flag(call, "train")) fail(call, "is in training mode");
  if (lists.contains(call.op)) return split(call);
  const auto found = handlers().find(call.op);
  if (found == handlers().end()) fail(call, "is not translated to ONNX");
  const std::string name = (this->*found->second)(call);
  for_each_alias(call.node, [&](const std::string& input, bool is_write) {
    if (is_write) write_in_place(call, input, name);
  });
  names_[result(call)] = name;
}

/// Writes the nodes of an ONNX model as they are. For its second part, values get new names.
REFINE_INLINE void GraphWriter::insert_part(const OnnxPart& part) {
  const formats::OnnxModel& model = *part.model;
  const std::string input = model.inputs.at(0).name;
  const bool is_first = parts_written_++ == 0;
  const auto is_taken = [](const std::string& name) {
    return name == "images" || name == "logits" || name == "alarm";
  };
  std::map<std::string, std::string> renamed;
  if (is_first && !is_taken(input)) {
    graph_.nodes.push_back({.name = unique("victim_images"),
                            .op = "Identity",
                            .inputs = {names_.at(part.images)},
                            .outputs = {input}});
  } else {
    renamed[input] = names_.at(part.images);
  }
  std::set<std::string> needed = {part.model_output};
  std::vector<const formats::OnnxNode*> nodes;
  for (auto node = model.nodes.rbegin(); node != model.nodes.rend(); ++node) {
    if (std::ranges::none_of(node->outputs, [&](const std::string& name) { return needed.contains(name); }))
      continue;
    needed.insert(node->inputs.begin(), node->inputs.end());
    nodes.push_back(&*node);
  }
  std::ranges::reverse(nodes);
  for (const auto& [name, tensor] : model.tensors) {
    if (!needed.contains(name)) continue;
    std::string& written = part_tensors_[{&model, name}];
    if (written.empty()) {
      // Another model may have the name.
      written =
          is_taken(name) || &model != source_.parts.front().model.get() ? unique("victim_" + name) : name;
      graph_.tensors[written] = {.type = tensor.type, .sizes = tensor.sizes, .bytes = tensor.bytes};
    }
    if (written != name) renamed[name] = written;
  }
  for (const formats::OnnxNode* node : nodes) {
    for (const std::string& output : node->outputs) {
      if (!output.empty() && (!is_first || is_taken(output))) renamed[output] = unique("victim_" + output);
    }
  }
  for (const formats::OnnxNode* node : nodes) {
    bool is_same = is_first;
    for (const auto* list : {&node->inputs, &node->outputs}) {
      for (const std::string& name : *list) is_same = is_same && !renamed.contains(name);
    }
    const auto rename = [&](const std::string& name) {
      const auto found = renamed.find(name);
      return found == renamed.end() ? name : found->second;
    };
    formats::OnnxNode copy = *node;
    if (!is_same) {
      const std::string name = is_first || node->name.empty() ? "" : unique("victim_" + node->name);
      copy.encoded = formats::renamed_onnx_node(node->encoded, rename, name);
      for (auto* list : {&copy.inputs, &copy.outputs}) std::ranges::transform(*list, list->begin(), rename);
    }
    graph_.nodes.push_back(std::move(copy));
  }
  const auto output = renamed.find(part.model_output);
  names_[part.output] = output == renamed.end() ? part.model_output : output->second;
}

REFINE_INLINE formats::WritableOnnx GraphWriter::write() {
  find_constants();
  const auto& program = source_.program;
  names_[images_] = "images";
  std::set<const OnnxPart*> written;
  for (std::size_t i = 0; i < program.nodes.size(); ++i) {
    const GraphNode& node = program.nodes[i];
    const auto part = std::ranges::find_if(
        source_.parts, [&](const OnnxPart& each) { return each.nodes.contains(node.name); });
    if (part != source_.parts.end()) {
      if (written.insert(&*part).second) insert_part(*part);
      continue;
    }
    Call call{.node = node, .op = node.target, .handle = pt2::operator_of(node), .position = i};
    const std::size_t colons = call.op.find("::");
    if (colons == std::string::npos || call.op.starts_with("aten::sym_size")) continue;  // `integers` has it
    call.op = call.op.substr(colons + 2, call.op.find('.', colons) - colons - 2);
    if (call.op.ends_with('_') && !call.op.ends_with("__")) call.op.pop_back();
    for (const auto& [name, argument] : node.inputs) call.given[name] = &argument;
    bool is_constant = true;
    for_each_output(
        node, [&](const std::string& value) { is_constant = is_constant && constants_.contains(value); });
    if (!is_constant || node.outputs.empty()) translate(call);
  }
  const GraphNode none{.name = "output", .target = "output"};
  const Call end{.node = none, .op = "output", .handle = std::nullopt, .position = program.nodes.size()};
  for (const formats::GraphOutput& output : program.outputs) {
    graph_.nodes.push_back({.name = unique("output_" + output.name),
                            .op = "Identity",
                            .inputs = {use(end, output.value)},
                            .outputs = {output.name}});
    formats::OnnxValue value{.name = output.name, .type = type(output.value), .has_shape = true};
    for (const BatchInteger& size : sizes(output.value))
      value.sizes.push_back(size.per_image == 0 ? std::optional(size.constant) : std::nullopt);
    graph_.outputs.push_back(std::move(value));
  }
  formats::OnnxValue images{.name = "images", .type = ElementType::float32, .has_shape = true};
  for (const BatchInteger& size : sizes(images_))
    images.sizes.push_back(size.per_image == 0 ? std::optional(size.constant) : std::nullopt);
  graph_.inputs.push_back(std::move(images));
  for (const auto& [name, tensor] : initializers_) {
    graph_.tensors[name] = {.type = *pt2::element_type(tensor.scalar_type()),
                            .sizes = tensor.sizes().vec(),
                            .bytes = {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()}};
  }
  constexpr std::int64_t of_opset_18 = 8, of_opset_20 = 9, last_with_8 = 18;
  graph_.opset = opset_;
  graph_.ir_version = opset_ > last_with_8 ? of_opset_20 : of_opset_18;
  for (const OnnxPart& part : source_.parts)
    graph_.ir_version = std::max(graph_.ir_version, part.model->ir_version);
  return std::move(graph_);
}

/// Calls `use` with the content of a file.
template <typename Use>
void with_graph(const ExportJob& job, const std::filesystem::path& path, const Use& use) {
  const c10::NoGradGuard no_grad;
  const pt2::Prepared prepared = pt2::prepare(job, path, /*is_onnx=*/true);
  const std::string &name = job.functions.front().name, file = path.string();
  // A graph has one opset, so that nodes of another are translated from the program.
  std::vector<OnnxPart> parts = prepared.onnx_parts.at(name);
  const std::int64_t opset = parts.empty() ? 0 : parts.front().model->opset;
  std::erase_if(parts, [&](const OnnxPart& part) { return part.model->opset != opset; });
  const Source source{prepared.archive.programs.at(name), prepared.tensors, prepared.samples.at(name), parts,
                      file};
  GraphWriter writer(source);
  formats::WritableOnnx graph = writer.write();
  check_onnx_graph(graph, job.functions.front(), job.task, file);
  use(std::move(graph));
}

}  // namespace refine::detail::onnx

namespace refine::detail {

REFINE_INLINE void check_onnx_graph(const formats::WritableOnnx& graph, const ExportFunction& function,
                                    const Task& task, const std::string& file) {
  constexpr std::size_t short_list = 1024;  // bytes; the translator reads sizes and scales, not weights
  const auto model = std::make_shared<formats::OnnxModel>();
  model->opset = graph.opset;
  model->inputs = graph.inputs;
  model->nodes = graph.nodes;
  model->outputs = graph.outputs;
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : graph.tensors) {
    const at::ScalarType type = onnx::scalar_type(tensor.type);
    const at::Tensor content = at::from_blob(const_cast<char*>(tensor.bytes.data()), tensor.sizes, type);
    tensors[name] = at::isFloatingType(type) ? content.to(at::kFloat) : content;
    formats::OnnxTensor& read = model->tensors[name] = {.type = tensor.type, .sizes = tensor.sizes};
    if (!at::isFloatingType(type) || tensor.bytes.size() <= short_list) read.bytes = tensor.bytes;
  }
  const auto refuse = [&](const std::string& why) {
    throw Error(
        "cannot write {} as ONNX: its graph {}, which is an error of refine; write a .pt2 or TorchScript (.pt) instead",
        file, why);
  };
  formats::ExportedProgram program;
  try {
    program = backbones::detail::translate_onnx(model, file);
  } catch (const Error&) {
    return;
  }
  for (std::size_t i = 0; i < pt2::batches.size(); ++i) {
    const at::Tensor images = pt2::example_batch(i, task);
    std::vector<at::Tensor> found;
    try {
      const auto values = backbones::detail::run_program(program, tensors, images, file);
      for (const formats::GraphOutput& output : program.outputs)
        found.push_back(values.at(output.value).toTensor());
    } catch (const Error&) {
      return;
    } catch (const c10::Error& error) {
      refuse(fmt::format("fails for {} images ({})", pt2::batches[i], nn::describe_error(error)));
    }
    const std::vector<at::Tensor> expected = function.run(images);
    for (std::size_t k = 0; k < expected.size(); ++k) {
      if (k < found.size() && pt2::is_result(function, k, images, found[k], expected[k])) continue;
      refuse(fmt::format("has other {} than the model for {} images", function.outputs[k], pt2::batches[i]));
    }
  }
}

REFINE_INLINE void write_onnx(const ExportJob& job, const std::filesystem::path& path,
                              const nlohmann::ordered_json& metadata) {
  onnx::with_graph(job, path, [&](formats::WritableOnnx graph) {
    graph.metadata["refine.json"] = about_text(job.task, metadata, job.kind, job.facts);
    formats::write_onnx(path, graph);
  });
}

REFINE_INLINE void write_onnx(const ServedParts& parts, const std::filesystem::path& path,
                              const nlohmann::ordered_json& metadata, const ServingOptions& specified) {
  const ServingOptions serving = serving_of(parts, specified, path);
  const ScopedCpu on_cpu(parts);
  ExportFunction graph{.name = "graph", .outputs = {"logits", "alarm"}};
  graph.run = [&](const at::Tensor& x) -> std::vector<at::Tensor> {
    const at::Tensor defended = parts.classify(parts.transform(x)), victim = parts.undefended(x);
    const at::Tensor alarm = alarm_score(victim, defended);
    if (serving.answer == Answer::defended) return {defended, alarm};
    return {gated_answer(victim, defended, *serving.alarm_threshold), alarm};
  };
  if (serving.answer == Answer::gated) {
    graph.gated = "logits";
    graph.is_undecided = [&](const at::Tensor& x) { return is_at_threshold(parts, x, serving); };
  }
  write_onnx({.module = torchscript_module(parts),
              .victim = victim_of(parts),
              .functions = {std::move(graph)},
              .task = parts.task,
              .kind = "defended",
              .facts = facts_of(parts, serving)},
             path, metadata);
}

REFINE_INLINE void check_onnx(const ExportJob& job, const std::filesystem::path& path) {
  onnx::with_graph(job, path, [&](const formats::WritableOnnx& graph) {
    std::uint64_t bytes = 0;
    for (const auto& [name, tensor] : graph.tensors) bytes += tensor.bytes.size();
    formats::detail::onnx::check_file_size(path, bytes);
  });
}

}  // namespace refine::detail
