#pragma once

#include <refine/export/pt2.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/jit_type.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <variant>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/formats/exported_program_writer.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/gated.hpp>
#include <refine/programs/detail/exported_module.hpp>
#include <refine/programs/detail/program_checks.hpp>

namespace refine::detail::pt2 {

using Splices = backbones::detail::ExportedModule::ScopedSplices;

/// The tensors of a file, which its programs share.
struct Tensors {
  std::map<std::string, at::Tensor> by_name = {};  ///< on the CPU, contiguous
  std::set<std::string> parameters = {};           ///< names of parameters; the others are buffers
  std::vector<at::Tensor> constants = {};          ///< tensors that no module has, `constant_0` and so on
  /// What is before the names of the tensors of spliced programs, by program.
  std::map<const formats::ExportedProgram*, std::string> prefixes = {};

  /// Returns it. Programs that are not the victim's are encoders or students.
  const std::string& prefix_of(const formats::ExportedProgram* program) {
    std::string& prefix = prefixes[program];
    for (std::size_t i = 0; prefix.empty(); ++i) {
      const std::string name = i == 0 ? "encoder" : fmt::format("encoder_{}", i);
      if (std::ranges::none_of(prefixes, [&](const auto& each) { return each.second == name; }))
        prefix = name;
    }
    return prefix;
  }
};

/// The part of a program that was translated from an ONNX model, which an ONNX file has in its place.
struct OnnxPart {
  std::shared_ptr<const formats::OnnxModel> model = nullptr;  ///< the model
  std::string images = {};                                    ///< value of the program that it takes
  std::string output = {};                                    ///< value of the program that it returns
  std::string model_output = {};                              ///< the model's name of that value
  std::set<std::string> nodes = {};                           ///< names of the nodes
};

/// Where a program goes. Its name does not choose the format: callers of `export_onnx` have.
struct Destination {
  std::string file = {};
  bool is_onnx = false;  ///< else a .pt2

  /// For messages: "x.onnx as ONNX".
  std::string text() const { return file + (is_onnx ? " as ONNX" : " as .pt2"); }
};

/// Returns torch.export's name of an element type.
inline std::optional<formats::ElementType> element_type(at::ScalarType type) {
  switch (type) {
    case at::kByte:
      return formats::ElementType::uint8;
    case at::kChar:
      return formats::ElementType::int8;
    case at::kShort:
      return formats::ElementType::int16;
    case at::kInt:
      return formats::ElementType::int32;
    case at::kLong:
      return formats::ElementType::int64;
    case at::kHalf:
      return formats::ElementType::float16;
    case at::kFloat:
      return formats::ElementType::float32;
    case at::kDouble:
      return formats::ElementType::float64;
    case at::kBool:
      return formats::ElementType::boolean;
    case at::kBFloat16:
      return formats::ElementType::bfloat16;
    default:
      return std::nullopt;
  }
}

/// Calls `visit` with each name of a value in an argument. `visit` may change the name.
template <typename Argument, typename Visit>
void for_each_name(Argument& argument, const Visit& visit) {
  if (auto* value = std::get_if<formats::ValueName>(&argument)) visit(*value);
  if (auto* values = std::get_if<std::vector<formats::ValueName>>(&argument)) {
    for (auto& value : *values) visit(value);
  }
  if (auto* values = std::get_if<std::vector<std::optional<formats::ValueName>>>(&argument)) {
    for (auto& value : *values) {
      if (value) visit(*value);
    }
  }
  if (auto* values = std::get_if<std::vector<formats::GraphInteger>>(&argument)) {
    for (auto& value : *values) {
      if (auto* name = std::get_if<formats::ValueName>(&value)) visit(*name);
    }
  }
}

/// Returns the operator that a node calls; nothing for arithmetic with sizes.
inline std::optional<c10::OperatorHandle> operator_of(const formats::GraphNode& node) {
  const std::size_t colons = node.target.find("::");
  if (colons == std::string::npos) return std::nullopt;
  const std::size_t dot = node.target.find('.', colons);
  std::string overload = dot == std::string::npos ? std::string() : node.target.substr(dot + 1);
  if (overload == "default") overload.clear();
  return c10::Dispatcher::singleton().findSchema({node.target.substr(0, dot), overload});
}

/// Translates a trace to a program of torch.export.
///
/// The trace is the only description of the networks: `export_torchscript` writes the same one. Its
/// nodes are calls of LibTorch's operators already; what TorchScript adds to them (constants, lists
/// and attributes as nodes, integers as tensors) becomes arguments here.
class Translator {
 public:
  /// The arguments must stay valid.
  /// \param module the module of the trace
  /// \param splices programs in place of which the trace has a node
  /// \param tensors receives the tensors that the program uses
  /// \param file name of the file, for messages
  Translator(const torch::jit::Module& module, const std::vector<Splices::Splice>& splices, Tensors& tensors,
             const Destination& destination)
      : module_(module), splices_(splices), tensors_(tensors), destination_(destination) {}

  /// Translates a trace.
  /// \param outputs names of its outputs
  formats::ExportedProgram translate(const torch::jit::Graph& graph, const std::vector<std::string>& outputs);

  /// Returns which nodes of the program were translated from ONNX.
  const std::vector<OnnxPart>& onnx_parts() const { return onnx_parts_; }

 private:
  using Node = torch::jit::Node;
  using Value = torch::jit::Value;

  [[noreturn]] void fail(const std::string& why) const;

  std::string new_name(std::string_view wanted);
  std::string stored(const std::string& name, const at::Tensor& tensor, bool is_parameter);

  void translate(const Node& node);
  void translate_attribute(const Node& node);
  void translate_list(const Node& node);
  bool translate_integer(const Node& node);
  void translate_call(const Node& node);
  void splice(const Node& node);
  std::string clone(const std::string& value);

  const c10::IValue* constant(const Value* value) const;
  const std::string* name_of(const Value* value) const;
  bool is_integer(const Value* value) const;
  std::string use(const Value* value);
  formats::GraphInteger integer(const Value* value);
  formats::GraphArgument argument(const Value* value, const c10::TypePtr& type, const Node& node);
  formats::GraphArgument list_argument(const Value* value, const c10::TypePtr& element, const Node& node);
  formats::GraphArgument constant_argument(const c10::IValue& value, const c10::TypePtr& type,
                                           const Node& node);

  const torch::jit::Module& module_;
  const std::vector<Splices::Splice>& splices_;
  Tensors& tensors_;
  const Destination& destination_;
  formats::ExportedProgram program_;
  std::set<std::string> names_;
  std::map<std::string, int> suffixes_;        // name → the last number that `new_name` appended to it
  std::map<std::string, std::string> inputs_;  // stored tensor → name in the graph
  std::string images_;
  struct Object {
    c10::IValue value;
    std::string name;
  };
  std::map<const Value*, Object> objects_;  // attributes: modules and tensors
  std::map<const Value*, c10::IValue> constants_;
  std::map<const Value*, std::vector<const Value*>> lists_;
  std::map<const Value*, std::string> results_;
  std::set<std::string> integers_;
  std::vector<OnnxPart> onnx_parts_;
};

REFINE_INLINE void Translator::fail(const std::string& why) const {
  throw Error(
      "cannot write {}: {}; write TorchScript (a name that ends in .pt), or export the victim itself with "
      "torch.export and defend that file",
      destination_.text(), why);
}

/// Returns a name that Python accepts and the graph does not have yet.
REFINE_INLINE std::string Translator::new_name(std::string_view wanted) {
  std::string base;
  for (const char c : wanted) {
    const bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    base += is_word ? c : '_';
  }
  if (base.empty() || (base[0] >= '0' && base[0] <= '9')) base = "v" + base;
  std::string name = base;
  for (int& last = suffixes_[base]; !names_.insert(name).second;) name = fmt::format("{}_{}", base, ++last);
  return name;
}

/// Makes a tensor an input of the graph.
/// \return its name in the graph
REFINE_INLINE std::string Translator::stored(const std::string& name, const at::Tensor& tensor,
                                             bool is_parameter) {
  const auto known = inputs_.find(name);
  if (known != inputs_.end()) return known->second;
  if (!element_type(tensor.scalar_type())) {
    fail(fmt::format("its tensor '{}' has the type {}", name, c10::toString(tensor.scalar_type())));
  }
  if (!tensors_.by_name.contains(name)) {
    // With strides for a contiguous tensor: those of channels-last are remembered where a size is 1.
    at::Tensor host = tensor.detach().to(at::kCPU);
    if (!host.is_contiguous()) host = host.contiguous();
    tensors_.by_name[name] = host.view(host.sizes());
    if (is_parameter) tensors_.parameters.insert(name);
  }
  const std::string value = new_name((is_parameter ? "p_" : "b_") + name);
  program_.inputs.push_back({.kind = formats::GraphInput::Kind::tensor, .name = value, .stored = name});
  return inputs_[name] = value;
}

REFINE_INLINE formats::ExportedProgram Translator::translate(const torch::jit::Graph& graph,
                                                             const std::vector<std::string>& outputs) {
  objects_[graph.inputs().at(0)] = {module_._ivalue(), ""};
  images_ = new_name("images");
  results_[graph.inputs().at(1)] = images_;
  for (const Node* node : graph.nodes()) {  // before the nodes that compute its conditions
    if (!node->blocks().empty()) fail(fmt::format("it has control flow ({})", node->kind().toQualString()));
  }
  for (const Node* node : graph.nodes()) translate(*node);
  std::set<std::string> returned = {images_};
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    std::string value = use(graph.outputs().at(i));
    // An output is neither an input nor another output.
    if (!returned.insert(value).second ||
        std::ranges::any_of(inputs_, [&](const auto& input) { return input.second == value; })) {
      value = clone(value);
    }
    program_.outputs.push_back({.name = outputs[i], .value = value});
  }
  program_.inputs.push_back({.kind = formats::GraphInput::Kind::images, .name = images_});
  formats::GraphShape shape;
  shape.sizes.resize(4);
  program_.shapes[images_] = shape;
  return std::move(program_);
}

REFINE_INLINE void Translator::translate(const Node& node) {
  if (node.kind() == c10::prim::Constant) {
    const auto value = torch::jit::toIValue(node.output());
    if (!value) fail("its trace has a constant without a value");
    constants_[node.output()] = *value;
  } else if (node.kind() == c10::prim::GetAttr) {
    translate_attribute(node);
  } else if (node.kind() == c10::prim::ListConstruct) {
    lists_[node.output()] = {node.inputs().begin(), node.inputs().end()};
  } else if (node.kind() == c10::prim::ListUnpack) {
    translate_list(node);
  } else if (node.kind() == c10::prim::device) {
    constants_[node.output()] = c10::IValue(c10::Device(at::kCPU));
  } else if (node.hasAttribute(Splices::position())) {
    splice(node);
  } else if (!translate_integer(node)) {
    translate_call(node);
  }
}

REFINE_INLINE void Translator::translate_attribute(const Node& node) {
  const Object& owner = objects_.at(node.input());
  const std::string& attribute = node.s(c10::attr::name);
  objects_[node.output()] = {owner.value.toObjectRef().getAttr(attribute),
                             owner.name.empty() ? attribute : owner.name + "." + attribute};
}

/// Names the elements of a list that an operator returned, which `translate_call` has done.
REFINE_INLINE void Translator::translate_list(const Node& node) {
  const auto list = lists_.find(node.input());
  if (list == lists_.end()) return;
  for (std::size_t i = 0; i < node.outputs().size(); ++i) {
    const Value* element = list->second.at(i);
    if (const c10::IValue* value = constant(element)) {
      constants_[node.output(i)] = *value;
    } else {
      results_[node.output(i)] = use(element);
    }
  }
}

REFINE_INLINE const c10::IValue* Translator::constant(const Value* value) const {
  const auto found = constants_.find(value);
  return found == constants_.end() ? nullptr : &found->second;
}

REFINE_INLINE const std::string* Translator::name_of(const Value* value) const {
  const auto found = results_.find(value);
  return found == results_.end() ? nullptr : &found->second;
}

/// True if a value is an integer that is constant or computed from sizes.
REFINE_INLINE bool Translator::is_integer(const Value* value) const {
  if (const c10::IValue* known = constant(value)) return known->isInt();
  const std::string* name = name_of(value);
  return name && integers_.contains(*name);
}

/// Returns the name of a tensor or of a computed integer.
REFINE_INLINE std::string Translator::use(const Value* value) {
  if (const std::string* name = name_of(value)) return *name;
  const auto attribute = objects_.find(value);
  if (attribute != objects_.end() && attribute->second.value.isTensor()) {
    const at::Tensor& tensor = attribute->second.value.toTensor();
    const torch::jit::Node* node = value->node();
    const Object& owner = objects_.at(node->input());
    const auto type = owner.value.toObjectRef().type();
    const auto slot = type->findAttributeSlot(node->s(c10::attr::name));
    return stored(attribute->second.name, tensor, slot && type->is_parameter(*slot));
  }
  if (const c10::IValue* known = constant(value); known && known->isTensor()) {
    std::vector<at::Tensor>& constants = tensors_.constants;
    const auto same = std::ranges::find_if(
        constants, [&](const at::Tensor& each) { return each.is_same(known->toTensor()); });
    const std::string name = fmt::format("constant_{}", same - constants.begin());
    if (same == constants.end()) constants.push_back(known->toTensor());
    return stored(name, known->toTensor(), false);
  }
  fail(fmt::format("its trace computes '{}' in a way that torch.export cannot express",
                   value->node()->kind().toQualString()));
}

/// Translates a node that only computes with sizes.
/// \return false if it does not
REFINE_INLINE bool Translator::translate_integer(const Node& node) {
  static const std::set<std::string_view> same = {"prim::NumToTensor", "aten::Int", "aten::ScalarImplicit",
                                                  "aten::IntImplicit"};
  static const std::map<std::string_view, const char*> arithmetic = {{"aten::add", "add"},
                                                                     {"aten::sub", "sub"},
                                                                     {"aten::mul", "mul"},
                                                                     {"aten::floordiv", "floordiv"},
                                                                     {"aten::floor_divide", "floordiv"}};
  const std::string_view kind = node.kind().toQualString();
  if (node.outputs().size() != 1 || node.inputs().empty()) return false;
  if (same.contains(kind)) {
    if (!is_integer(node.input(0))) return false;
    if (const c10::IValue* value = constant(node.input(0))) {
      constants_[node.output()] = *value;
    } else {
      results_[node.output()] = *name_of(node.input(0));
    }
    return true;
  }
  const auto add = [&](const char* target, std::string_view name,
                       std::vector<std::pair<std::string, formats::GraphArgument>> inputs) {
    const std::string value = new_name(name);
    integers_.insert(value);
    results_[node.output()] = value;
    const std::size_t positional = inputs.size();
    program_.nodes.push_back({.name = value,
                              .target = target,
                              .inputs = std::move(inputs),
                              .outputs = {formats::ValueName{value}},
                              .positional = positional});
    return true;
  };
  if (kind == "aten::size" && node.inputs().size() == 2) {
    const c10::IValue* dimension = constant(node.input(1));
    if (!dimension || !dimension->isInt()) return false;
    return add("aten::sym_size.int", "sym_size",
               {{"self", formats::ValueName{use(node.input(0))}}, {"dim", dimension->toInt()}});
  }
  const auto function = arithmetic.find(kind);
  if (function == arithmetic.end() || !is_integer(node.input(0)) || !is_integer(node.input(1))) return false;
  const auto operand = [&](const Value* value) -> formats::GraphArgument {
    const formats::GraphInteger number = integer(value);
    if (const auto* name = std::get_if<formats::ValueName>(&number)) return *name;
    return std::get<std::int64_t>(number);
  };
  return add(fmt::format("_operator.{}", function->second).c_str(), function->second,
             {{"a", operand(node.input(0))}, {"b", operand(node.input(1))}});
}

REFINE_INLINE formats::GraphInteger Translator::integer(const Value* value) {
  if (const c10::IValue* known = constant(value); known && known->isInt()) return known->toInt();
  if (!is_integer(value)) fail("its trace has a size that is not an integer");
  return formats::ValueName{*name_of(value)};
}

REFINE_INLINE formats::GraphArgument Translator::constant_argument(const c10::IValue& value,
                                                                   const c10::TypePtr& type,
                                                                   const Node& node) {
  if (value.isNone()) return std::monostate();
  if (value.isBool()) return value.toBool();
  if (value.isInt()) {
    const std::int64_t number = value.toInt();
    switch (type->kind()) {
      case c10::TypeKind::ScalarTypeType:
        if (const auto element = element_type(static_cast<at::ScalarType>(number))) return *element;
        break;
      case c10::TypeKind::MemoryFormatType: {
        constexpr std::array known = {
            std::pair{c10::MemoryFormat::Contiguous, formats::GraphMemoryFormat::contiguous},
            std::pair{c10::MemoryFormat::ChannelsLast, formats::GraphMemoryFormat::channels_last},
            std::pair{c10::MemoryFormat::ChannelsLast3d, formats::GraphMemoryFormat::channels_last_3d},
            std::pair{c10::MemoryFormat::Preserve, formats::GraphMemoryFormat::preserve}};
        for (const auto& [from, to] : known) {
          if (from == static_cast<c10::MemoryFormat>(number)) return to;
        }
        break;
      }
      case c10::TypeKind::LayoutType:
        if (static_cast<c10::Layout>(number) == c10::kStrided) return formats::GraphStrided();
        break;
      case c10::TypeKind::FloatType:
        return static_cast<double>(number);
      default:
        return number;
    }
  }
  if (value.isDouble()) return value.toDouble();
  if (value.isString()) return value.toStringRef();
  if (value.isDevice()) return formats::GraphDevice{"cpu"};
  if (value.isIntList()) {
    std::vector<formats::GraphInteger> numbers;
    for (const std::int64_t number : value.toIntVector()) numbers.emplace_back(number);
    return numbers;
  }
  if (value.isDoubleList()) return value.toDoubleVector();
  if (value.isBoolList()) {
    std::vector<bool> values;
    for (const bool each : value.toBoolList()) values.push_back(each);
    return values;
  }
  fail(fmt::format("it calls {} with a constant of the type {}", node.kind().toQualString(),
                   value.type()->repr_str()));
}

REFINE_INLINE formats::GraphArgument Translator::list_argument(const Value* value,
                                                               const c10::TypePtr& element,
                                                               const Node& node) {
  const std::vector<const Value*>& elements = lists_.at(value);
  switch (element->kind()) {
    case c10::TypeKind::TensorType: {
      std::vector<formats::ValueName> tensors;
      for (const Value* each : elements) tensors.push_back({use(each)});
      return tensors;
    }
    case c10::TypeKind::OptionalType: {
      std::vector<std::optional<formats::ValueName>> tensors;
      for (const Value* each : elements) {
        const c10::IValue* known = constant(each);
        tensors.push_back(known && known->isNone() ? std::nullopt
                                                   : std::optional(formats::ValueName{use(each)}));
      }
      return tensors;
    }
    case c10::TypeKind::FloatType:
    case c10::TypeKind::BoolType: {
      std::vector<double> numbers;
      std::vector<bool> truths;
      for (const Value* each : elements) {
        const c10::IValue* known = constant(each);
        if (!known)
          fail(fmt::format("it calls {} with numbers that it computes", node.kind().toQualString()));
        if (element->kind() == c10::TypeKind::BoolType) {
          truths.push_back(known->toBool());
        } else {
          numbers.push_back(known->isInt() ? static_cast<double>(known->toInt()) : known->toDouble());
        }
      }
      if (element->kind() == c10::TypeKind::BoolType) return truths;
      return numbers;
    }
    default: {
      std::vector<formats::GraphInteger> numbers;
      for (const Value* each : elements) numbers.push_back(integer(each));
      return numbers;
    }
  }
}

REFINE_INLINE formats::GraphArgument Translator::argument(const Value* value, const c10::TypePtr& type,
                                                          const Node& node) {
  c10::TypePtr inner = type;
  if (const auto optional = inner->cast<c10::OptionalType>()) inner = optional->getElementType();
  if (lists_.contains(value)) {
    const auto list = inner->cast<c10::ListType>();
    if (!list) fail(fmt::format("it calls {} with a list", node.kind().toQualString()));
    return list_argument(value, list->getElementType(), node);
  }
  const c10::IValue* known = constant(value);
  if (!known) return formats::ValueName{use(value)};
  if (!known->isTensor()) return constant_argument(*known, inner, node);
  const at::Tensor& tensor = known->toTensor();
  if (tensor.dim() != 0) return formats::ValueName{use(value)};
  if (at::isFloatingType(tensor.scalar_type())) return tensor.item<double>();
  if (tensor.scalar_type() == at::kBool) return tensor.item<bool>();
  return tensor.item<std::int64_t>();
}

REFINE_INLINE void Translator::translate_call(const Node& node) {
  const std::string kind = node.kind().toQualString();
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (!schema) fail(fmt::format("it computes with {}, which torch.export cannot express", kind));
  if (!kind.starts_with("aten::")) {
    fail(fmt::format("it calls {}, an operator that PyTorch does not have", kind));
  }
  std::string name = schema->name(), overload = schema->overload_name();
  std::vector<const Value*> inputs(node.inputs().begin(), node.inputs().end());
  // Tracing replaces conv2d by an internal operator with flags for cuDNN.
  constexpr std::size_t of_convolution = 9, transposed = 6, groups = 8;
  if (name == "aten::_convolution" && inputs.size() > of_convolution) {
    inputs.resize(of_convolution);
    const c10::IValue* is_transposed = constant(inputs[transposed]);
    const auto strides = lists_.find(inputs[3]);
    const c10::IValue* constant_strides = constant(inputs[3]);
    const std::size_t dimensions = strides != lists_.end() ? strides->second.size()
                                   : constant_strides      ? constant_strides->toIntVector().size()
                                                           : 0;
    if (is_transposed && !is_transposed->toBool() && dimensions == 2) {
      name = "aten::conv2d";
      inputs = {inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5], inputs[groups]};
    } else {
      name = "aten::convolution";
    }
    overload.clear();
  }
  const auto op = c10::Dispatcher::singleton().findSchema({name, overload});
  if (!op) fail(fmt::format("it computes with {}, an operation of TorchScript alone", kind));
  const auto& parameters = op->schema().arguments();
  if (parameters.size() != inputs.size()) {
    fail(fmt::format("it calls {} with {} arguments, expected {}", kind, inputs.size(), parameters.size()));
  }
  formats::GraphNode call{.target = fmt::format("{}.{}", name, overload.empty() ? "default" : overload)};
  // Defaults at the end are left out: other releases of PyTorch may have other ones there.
  std::size_t count = inputs.size();
  while (count > 0) {
    const auto& standard = parameters[count - 1].default_value();
    const c10::IValue* known = constant(inputs[count - 1]);
    if (!standard || !known) break;
    const bool is_scalar = known->isNone() || known->isBool() || known->isInt() || known->isDouble();
    const bool is_same =
        is_scalar && (known->isNone()   ? standard->isNone()
                      : known->isBool() ? standard->isBool() && standard->toBool() == known->toBool()
                      : known->isInt()  ? standard->isInt() && standard->toInt() == known->toInt()
                                        : standard->isDouble() && standard->toDouble() == known->toDouble());
    if (!is_same) break;
    --count;
  }
  for (std::size_t i = 0; i < count; ++i) {
    call.inputs.emplace_back(parameters[i].name(), argument(inputs[i], parameters[i].real_type(), node));
    if (!parameters[i].kwarg_only()) call.positional = i + 1;
  }
  const std::string_view base = std::string_view(name).substr(std::string_view("aten::").size());
  call.name = new_name(base);
  const auto& returns = op->schema().returns();
  if (returns.size() == 1 && returns[0].type()->kind() == c10::TypeKind::ListType) {
    const auto uses = node.output()->uses();
    if (uses.size() != 1 || uses[0].user->kind() != c10::prim::ListUnpack) {
      fail(fmt::format("it uses the list that {} returns, not its elements", kind));
    }
    std::vector<formats::ValueName> elements;
    for (const Value* element : uses[0].user->outputs()) {
      elements.push_back({results_[element] = new_name(base)});
    }
    call.outputs.emplace_back(std::move(elements));
  } else {
    for (std::size_t i = 0; i < returns.size(); ++i) {
      if (returns[i].type()->kind() != c10::TypeKind::TensorType) {
        fail(fmt::format("it computes with {}, which does not return a tensor", kind));
      }
      const std::string value = i == 0 ? call.name : new_name(base);
      results_[node.output(i)] = value;
      call.outputs.emplace_back(formats::ValueName{value});
    }
  }
  program_.nodes.push_back(std::move(call));
}

/// Adds a copy of a value. \return its name
REFINE_INLINE std::string Translator::clone(const std::string& value) {
  const std::string copy = new_name("clone");
  program_.nodes.push_back({.name = copy,
                            .target = "aten::clone.default",
                            .inputs = {{"self", formats::ValueName{value}}},
                            .outputs = {formats::ValueName{copy}},
                            .positional = 1});
  return copy;
}

/// Copies the graph of a victim or an encoder in place of its node, with new names.
REFINE_INLINE void Translator::splice(const Node& node) {
  const auto& [source, output, copies_images] =
      splices_.at(static_cast<std::size_t>(node.i(Splices::position())));
  std::map<std::string, std::string> renamed;
  const auto rename = [&](formats::ValueName& value) { value.name = renamed.at(value.name); };
  const std::string prefix = tensors_.prefix_of(source.get());
  std::string images = use(node.input(0));
  if (copies_images) images = clone(images);
  for (const formats::GraphInput& input : source->inputs) {
    using Kind = formats::GraphInput::Kind;
    if (input.kind == Kind::images) renamed[input.name] = images;
    if (input.kind != Kind::tensor) continue;
    const formats::StoredTensor& tensor = source->tensors.at(input.stored);
    renamed[input.name] =
        stored(prefix + "." + input.stored, backbones::detail::view_of(*source, tensor), tensor.is_parameter);
  }
  OnnxPart part{.model = source->onnx, .images = images};
  for (formats::GraphNode copy : source->nodes) {
    // Checks of the exporter, which would tie the file to the CPU.
    if (copy.target.starts_with("aten::_assert_tensor_metadata")) continue;
    if (copy.target == "_operator.getitem") {
      const auto& list = std::get<std::vector<formats::ValueName>>(copy.inputs.at(0).second);
      const auto index = static_cast<std::size_t>(std::get<std::int64_t>(copy.inputs.at(1).second));
      renamed[std::get<formats::ValueName>(copy.outputs.at(0)).name] = renamed.at(list.at(index).name);
      continue;
    }
    copy.name = new_name(prefix + "_" + copy.name);
    for (auto& [parameter, operand] : copy.inputs) for_each_name(operand, rename);
    for (formats::GraphArgument& result : copy.outputs) {
      for_each_name(result, [&](formats::ValueName& value) {
        const std::string name = new_name(prefix + "_" + value.name);
        renamed[value.name] = name;
        value.name = name;
      });
    }
    part.nodes.insert(copy.name);
    program_.nodes.push_back(std::move(copy));
  }
  results_[node.output()] = part.output = renamed.at(output);
  if (!part.model) return;
  part.model_output = std::ranges::find(source->outputs, output, &formats::GraphOutput::value)->name;
  onnx_parts_.push_back(std::move(part));
}

/// Removes nodes whose results nothing uses, and the tensors that only they need.
inline void prune(formats::ExportedProgram& program) {
  std::set<std::string> needed;
  for (const formats::GraphOutput& output : program.outputs) needed.insert(output.value);
  std::vector<formats::GraphNode> kept;
  for (auto node = program.nodes.rbegin(); node != program.nodes.rend(); ++node) {
    bool is_needed = false;
    for (const formats::GraphArgument& output : node->outputs) {
      for_each_name(output, [&](const formats::ValueName& value) {
        is_needed = is_needed || needed.contains(value.name);
      });
    }
    if (const auto op = operator_of(*node)) {
      for (const c10::Argument& parameter : op->schema().arguments()) {
        is_needed = is_needed || (parameter.alias_info() && parameter.alias_info()->isWrite());
      }
    }
    if (!is_needed) continue;
    for (const auto& [parameter, argument] : node->inputs) {
      for_each_name(argument, [&](const formats::ValueName& value) { needed.insert(value.name); });
    }
    kept.push_back(std::move(*node));
  }
  std::ranges::reverse(kept);
  program.nodes = std::move(kept);
  std::erase_if(program.inputs, [&](const formats::GraphInput& input) {
    return input.kind == formats::GraphInput::Kind::tensor && !needed.contains(input.name);
  });
}

/// Replaces integers that do not depend on the number of images by their values.
inline void fold_integers(formats::ExportedProgram& program,
                          const std::map<std::string, formats::BatchInteger>& integers) {
  const auto known = [&](const std::string& name) -> std::optional<std::int64_t> {
    const auto found = integers.find(name);
    if (found == integers.end() || found->second.per_image != 0) return std::nullopt;
    return found->second.constant;
  };
  for (formats::GraphNode& node : program.nodes) {
    for (auto& [parameter, argument] : node.inputs) {
      if (const auto* value = std::get_if<formats::ValueName>(&argument)) {
        if (const auto number = known(value->name)) argument = *number;
      }
      auto* values = std::get_if<std::vector<formats::GraphInteger>>(&argument);
      if (!values) continue;
      for (formats::GraphInteger& value : *values) {
        const auto* name = std::get_if<formats::ValueName>(&value);
        if (!name) continue;
        if (const auto number = known(name->name)) value = *number;
      }
    }
  }
  prune(program);
}

/// The numbers of images that programs are run with: two to find how sizes depend on it, and one to
/// check that.
inline constexpr std::array<std::int64_t, 3> batches = {2, 3, 5};

/// Returns the linear function that has these values for `batches`; nothing if there is none.
inline std::optional<formats::BatchInteger> linear(const std::array<std::int64_t, 3>& values) {
  const std::int64_t per_image = (values[1] - values[0]) / (batches[1] - batches[0]);
  const std::int64_t constant = values[0] - per_image * batches[0];
  if (per_image < 0 || per_image * batches[2] + constant != values[2]) return std::nullopt;
  return formats::BatchInteger{per_image, constant};
}

/// Returns the images of the i-th of `batches`. Each shows something else, so that sizes that depend on it
/// are not taken for multiples.
inline at::Tensor example_batch(std::size_t i, const Task& task) {
  return backbones::detail::ramp(batches[i], task.image).contiguous().pow(static_cast<double>(i + 1));
}

/// True if a program computes the k-th result of a function, but for rounding.
/// \param found the program's result for `images`
/// \param expected the function's
inline bool is_result(const ExportFunction& function, std::size_t k, const at::Tensor& images,
                      const at::Tensor& found, at::Tensor expected) {
  if (found.sizes() != expected.sizes()) return false;
  // Against other graphs; rounding, which grows with the largest result, is far below.
  constexpr double share = 1e-3;
  const double largest = expected.abs().max().item<double>();
  const double tolerance = share * (std::isfinite(largest) ? std::max(1.0, largest) : 1.0);
  if (function.outputs[k] == function.gated)
    expected = at::where(function.is_undecided(images).unsqueeze(1), found, expected);
  return at::allclose(found, expected, share, tolerance, /*equal_nan=*/true);
}

/// Adds to a program what the file says about its values, which are found by running it.
/// \param program translated from a trace
/// \param tensors of the file
/// \param function what it must compute
/// \param task of the images
/// \param destination for messages
/// \param sample receives every value of a run with the first of `batches`, by its name
/// \throws Error if a size depends on what the images show, or the program computes something else
REFINE_INLINE formats::WritableProgram with_types(formats::ExportedProgram program, const Tensors& tensors,
                                                  const ExportFunction& function, const Task& task,
                                                  const Destination& destination,
                                                  std::map<std::string, c10::IValue>& sample) {
  const auto refuse = [&](const std::string& why) {
    throw Error("cannot write {}: {}; write TorchScript (a name that ends in .pt)", destination.text(), why);
  };
  std::array<std::map<std::string, c10::IValue>, batches.size()> values;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const at::Tensor images = example_batch(i, task);
    try {
      values[i] = backbones::detail::run_program(program, tensors.by_name, images, destination.file);
    } catch (const c10::Error& error) {
      refuse(fmt::format("its program fails for {} images: {}", batches[i], nn::describe_error(error)));
    }
    const c10::NoGradGuard no_grad;
    const std::vector<at::Tensor> expected = function.run(images);
    for (std::size_t k = 0; k < expected.size(); ++k) {
      if (!is_result(function, k, images, values[i].at(program.outputs[k].value).toTensor(), expected[k])) {
        refuse(
            fmt::format("its program has other {} than the model for {} images, so the model does not do the "
                        "same for every batch",
                        function.outputs[k], batches[i]));
      }
    }
  }
  formats::WritableProgram typed;
  for (const auto& [name, first] : values[0]) {
    const c10::IValue &second = values[1].at(name), &third = values[2].at(name);
    if (first.isInt()) {
      const auto size = linear({first.toInt(), second.toInt(), third.toInt()});
      if (!size) refuse(fmt::format("the size '{}' is not a multiple of the number of images", name));
      typed.integers[name] = *size;
      continue;
    }
    if (!first.isTensor() || !first.toTensor().defined()) continue;
    const at::Tensor &a = first.toTensor(), &b = second.toTensor(), &c = third.toTensor();
    const auto type = element_type(a.scalar_type());
    if (!type) refuse(fmt::format("'{}' has the type {}", name, c10::toString(a.scalar_type())));
    formats::GraphTensor tensor{.type = *type};
    const bool has_rank = a.dim() == b.dim() && a.dim() == c.dim();
    for (std::int64_t d = 0; has_rank && d < a.dim(); ++d) {
      const auto size = linear({a.size(d), b.size(d), c.size(d)});
      const auto stride = linear({a.stride(d), b.stride(d), c.stride(d)});
      if (!size) break;
      tensor.sizes.push_back(*size);
      tensor.strides.push_back(stride.value_or(formats::BatchInteger{.constant = a.stride(d)}));
    }
    if (!has_rank || tensor.sizes.size() != static_cast<std::size_t>(a.dim())) {
      refuse(fmt::format("the size of '{}' depends on what the images show", name));
    }
    typed.tensors[name] = std::move(tensor);
  }
  fold_integers(program, typed.integers);
  std::set<std::string> left = {};
  for (const formats::GraphInput& input : program.inputs) {
    if (input.kind == formats::GraphInput::Kind::images) left.insert(input.name);
  }
  for (const formats::GraphNode& node : program.nodes) {
    for (const formats::GraphArgument& output : node.outputs) {
      for_each_name(output, [&](const formats::ValueName& value) { left.insert(value.name); });
    }
  }
  std::erase_if(typed.tensors, [&](const auto& item) { return !left.contains(item.first); });
  std::erase_if(typed.integers, [&](const auto& item) { return !left.contains(item.first); });
  // torch.export lists parameters, then buffers, then the images.
  const auto rank = [&](const formats::GraphInput& input) {
    return input.kind == formats::GraphInput::Kind::images ? 2
           : tensors.parameters.contains(input.stored)     ? 0
                                                           : 1;
  };
  std::ranges::stable_sort(program.inputs, {}, rank);
  typed.inputs = std::move(program.inputs);
  typed.nodes = std::move(program.nodes);
  typed.outputs = std::move(program.outputs);
  sample = std::move(values[0]);
  return typed;
}

/// The content of a file, and what it refers to.
struct Prepared {
  std::vector<std::vector<Splices::Splice>> splices = {};  // own the bytes of victims
  Tensors tensors = {};
  formats::WritableArchive archive = {};
  std::map<std::string, std::vector<OnnxPart>> onnx_parts = {};            // by program
  std::map<std::string, std::map<std::string, c10::IValue>> samples = {};  // for ONNX only
};

REFINE_INLINE Prepared prepare(const ExportJob& job, const std::filesystem::path& path,
                               bool is_onnx = false) {
  const Destination destination{.file = path.string(), .is_onnx = is_onnx};
  const at::Tensor example = example_images(job.task, path);
  Prepared prepared;
  if (job.victim) {
    for (const auto& module : job.victim->modules()) {
      const auto* program = dynamic_cast<const backbones::detail::ExportedModule*>(module.get());
      if (program && prepared.tensors.prefixes.empty())
        prepared.tensors.prefixes[program->program().get()] = "victim";
    }
  }
  const c10::NoGradGuard no_grad;
  for (const ExportFunction& function : job.functions) {
    torch::jit::Module module = job.module;
    Splices splices;
    const auto traced = torch::jit::tracer::trace(
        {example},
        [&](torch::jit::Stack inputs) -> torch::jit::Stack {
          const std::vector<at::Tensor> outputs = function.run(inputs.at(0).toTensor());
          return torch::jit::Stack(outputs.begin(), outputs.end());
        },
        [](const at::Tensor&) { return std::string(); }, /*strict=*/true, /*force_outplace=*/false, &module,
        {"images"});
    prepared.splices.push_back(splices.splices());
    Translator translator(module, prepared.splices.back(), prepared.tensors, destination);
    formats::ExportedProgram program = translator.translate(*traced.first->graph, function.outputs);
    prune(program);
    prepared.onnx_parts[function.name] = translator.onnx_parts();
    std::map<std::string, c10::IValue> sample;
    prepared.archive.programs[function.name] =
        with_types(std::move(program), prepared.tensors, function, job.task, destination, sample);
    if (is_onnx) prepared.samples[function.name] = std::move(sample);
  }
  std::set<std::string> used;
  for (const auto& [name, program] : prepared.archive.programs) {
    for (const formats::GraphInput& input : program.inputs) used.insert(input.stored);
  }
  for (const auto& [name, tensor] : prepared.tensors.by_name) {
    if (!used.contains(name)) continue;
    prepared.archive.tensors[name] = {
        .type = *element_type(tensor.scalar_type()),
        .sizes = tensor.sizes().vec(),
        .is_parameter = prepared.tensors.parameters.contains(name),
        .bytes = {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()}};
  }
  return prepared;
}

}  // namespace refine::detail::pt2

namespace refine::detail {

REFINE_INLINE void write_pt2(const ExportJob& job, const std::filesystem::path& path,
                             const nlohmann::ordered_json& metadata) {
  pt2::Prepared prepared = pt2::prepare(job, path);
  prepared.archive.extra["refine.json"] = about_text(job.task, metadata, job.kind, job.facts);
  formats::write_exported_programs(path, prepared.archive);
}

REFINE_INLINE void write_pt2(const ServedParts& parts, const std::filesystem::path& path,
                             const nlohmann::ordered_json& metadata, const ServingOptions& specified) {
  const ServingOptions serving = serving_of(parts, specified, path);
  const ScopedCpu on_cpu(parts);
  const auto gated = [&](const at::Tensor& victim, const at::Tensor& defended) {
    return gated_answer(victim, defended, *serving.alarm_threshold);
  };
  ExportFunction model{.name = "model", .outputs = {"logits"}};
  model.run = [&](const at::Tensor& x) -> std::vector<at::Tensor> {
    const at::Tensor defended = parts.classify(parts.transform(x));
    if (serving.answer == Answer::defended) return {defended};
    return {gated(parts.undefended(x), defended)};
  };
  ExportFunction details{.name = "details", .outputs = {"logits", "alarm", "undefended", "transformed"}};
  details.run = [&](const at::Tensor& x) -> std::vector<at::Tensor> {
    const at::Tensor transformed = parts.transform(x);
    const at::Tensor defended = parts.classify(transformed), victim = parts.undefended(x);
    std::vector<at::Tensor> results = {defended, alarm_score(victim, defended), victim, transformed};
    if (serving.alarm_threshold) results.push_back(gated(victim, defended));
    return results;
  };
  if (serving.alarm_threshold) {
    details.outputs.emplace_back("gated");
    details.gated = "gated";
    details.is_undecided = [&](const at::Tensor& x) { return is_at_threshold(parts, x, serving); };
    if (serving.answer == Answer::gated) {
      model.gated = "logits";
      model.is_undecided = details.is_undecided;
    }
  }
  write_pt2({.module = torchscript_module(parts),
             .victim = victim_of(parts),
             .functions = {std::move(model), std::move(details)},
             .task = parts.task,
             .kind = "defended",
             .facts = facts_of(parts, serving)},
            path, metadata);
}

REFINE_INLINE void check_pt2(const ExportJob& job, const std::filesystem::path& path) {
  pt2::prepare(job, path);
}

}  // namespace refine::detail
