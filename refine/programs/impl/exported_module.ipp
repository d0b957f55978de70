#pragma once

#include <refine/programs/detail/exported_module.hpp>

#include <ATen/ScalarOps.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/List.h>
#include <ATen/core/jit_type.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <set>
#include <utility>

#include <refine/formats/detail/operators.hpp>
#include <refine/nn/conv.hpp>
#include <refine/programs/detail/program_checks.hpp>

namespace refine::backbones::detail {

/// Returns LibTorch's name of an element type.
inline at::ScalarType scalar_type(formats::ElementType type) {
  using Type = formats::ElementType;
  switch (type) {
    case Type::uint8:
      return at::kByte;
    case Type::int8:
      return at::kChar;
    case Type::int16:
      return at::kShort;
    case Type::int32:
      return at::kInt;
    case Type::int64:
      return at::kLong;
    case Type::float16:
      return at::kHalf;
    case Type::float32:
      return at::kFloat;
    case Type::float64:
      return at::kDouble;
    case Type::boolean:
      return at::kBool;
    case Type::bfloat16:
      return at::kBFloat16;
  }
  return at::kFloat;
}

/// Returns the type that a program computes with here: float32 for every precision.
inline at::ScalarType computed_type(formats::ElementType type) {
  const at::ScalarType given = scalar_type(type);
  return at::isFloatingType(given) ? at::kFloat : given;
}

/// True if a number of this type becomes float32.
inline bool is_converted_type(formats::ElementType type) {
  return at::isFloatingType(scalar_type(type)) && scalar_type(type) != at::kFloat;
}

/// True if a program has numbers that become float32.
inline bool has_other_types(const formats::ExportedProgram& program) {
  for (const auto& [name, tensor] : program.tensors) {
    if (is_converted_type(tensor.type)) return true;
  }
  for (const formats::GraphNode& node : program.nodes) {
    for (const auto& [parameter, argument] : node.inputs) {
      const auto* type = std::get_if<formats::ElementType>(&argument);
      if (type && is_converted_type(*type)) return true;
    }
  }
  return false;
}

inline c10::OperatorHandle operator_named(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

inline c10::MemoryFormat memory_format(formats::GraphMemoryFormat format) {
  using Format = formats::GraphMemoryFormat;
  switch (format) {
    case Format::contiguous:
      return c10::MemoryFormat::Contiguous;
    case Format::channels_last:
      return c10::MemoryFormat::ChannelsLast;
    case Format::channels_last_3d:
      return c10::MemoryFormat::ChannelsLast3d;
    case Format::preserve:
      return c10::MemoryFormat::Preserve;
  }
  return c10::MemoryFormat::Preserve;
}

/// Calls `visit` with each slot that an operand reads.
template <typename Visit>
void for_each_slot(const Operand& operand, const Visit& visit) {
  if (const Slot* slot = std::get_if<Slot>(&operand)) visit(*slot);
  if (const auto* scalar = std::get_if<ScalarOf>(&operand)) visit(scalar->slot);
  if (const auto* list = std::get_if<TensorListOperand>(&operand)) {
    for (const auto& slot : list->slots) {
      if (slot) visit(*slot);
    }
  }
  if (const auto* numbers = std::get_if<std::vector<IntegerOperand>>(&operand)) {
    for (const IntegerOperand& number : *numbers) {
      if (const Slot* slot = std::get_if<Slot>(&number)) visit(*slot);
    }
  }
}

/// Calls `visit` with each slot that a step reads.
template <typename Visit>
void for_each_read(const Step& step, const Visit& visit) {
  for (const Operand& operand : step.operands) for_each_slot(operand, visit);
}

/// True if an operator, in evaluation mode, may write to an operand.
inline bool writes(const c10::FunctionSchema& schema, const c10::Argument& parameter) {
  return (parameter.alias_info() && parameter.alias_info()->isWrite()) ||
         hides_write(schema.name(), parameter.name(), /*is_training=*/false);
}

/// Translates the nodes of a program into steps.
class ExportedCompiler {
 public:
  /// \param given tensors of the program by name, in place of the bytes in the file; null: none
  ExportedCompiler(ExportedModule& module, const formats::ExportedProgram& program,
                   const std::map<std::string, at::Tensor>* given = nullptr)
      : module_(module), program_(program), given_(given) {}

  /// Fills the module.
  /// \throws Error if the program cannot run
  void run();

  /// Runs the program without changing its steps.
  /// \return each value by its name in the graph
  /// \throws Error if the program cannot run
  std::map<std::string, c10::IValue> run_unchanged(const at::Tensor& images);

 private:
  /// What a slot may share memory with.
  enum class Guard { nothing, images, tensors };

  [[noreturn]] void fail(const std::string& why) const {
    throw Error(
        "cannot use {} as a classifier: {}; export a module whose forward maps images to logits, in evaluation "
        "mode",
        module_.name_, why);
  }
  [[noreturn]] void fail(const formats::GraphNode& node, const std::string& why) const {
    fail(fmt::format("its node '{}' ({}) {}", node.name, node.target, why));
  }

  void translate();
  void read_inputs();
  at::Tensor tensor_of(const std::string& name) const;
  void add_node(const formats::GraphNode& node);
  void add_arithmetic(const formats::GraphNode& node, char sign);
  void add_call(const formats::GraphNode& node, const c10::OperatorHandle& op);
  void add_batch_norm(const formats::GraphNode& node, const Step& step);
  void check_mode(const formats::GraphNode& node, const Step& step) const;
  void add_step(const formats::GraphNode& node, Step step);
  void add_outputs(const formats::GraphNode& node, Step& step);
  void guard_memory(const formats::GraphNode& node, const Step& step);
  Guard guard_of(const Operand& operand) const;
  void fold_batch_norms();
  bool fold(Step& convolution, const Step& norm);
  void mark_convolutions();

  Slot define(const std::string& value);
  Slot slot_of(const std::string& value) const;
  Slot add_tensor(const at::Tensor& tensor);
  const at::Tensor* tensor_at(const Operand& operand) const;

  Operand operand(const formats::GraphNode& node, const c10::Argument& parameter,
                  const formats::GraphArgument& argument) const;
  Operand list_operand(const formats::GraphNode& node, const c10::Argument& parameter,
                       const c10::TypePtr& element, const formats::GraphArgument& argument) const;
  [[noreturn]] void mismatch(const formats::GraphNode& node, const c10::Argument& parameter,
                             const formats::GraphArgument& argument) const;
  IntegerOperand integer(const formats::GraphInteger& value) const;

  ExportedModule& module_;
  const formats::ExportedProgram& program_;
  const std::map<std::string, at::Tensor>* given_;
  const bool mixes_types_ = has_other_types(program_);
  std::map<std::string, Slot> slots_;
  std::vector<Step> steps_;
  std::map<std::size_t, at::Tensor> tensors_;  // by slot
  std::map<std::size_t, Guard> guards_;
  std::set<std::size_t> integers_;  // slots of integers
};

REFINE_INLINE void ExportedCompiler::translate() {
  read_inputs();
  for (const formats::GraphNode& node : program_.nodes) add_node(node);
}

REFINE_INLINE std::map<std::string, c10::IValue> ExportedCompiler::run_unchanged(const at::Tensor& images) {
  const c10::NoGradGuard no_grad;
  translate();
  module_.steps_ = std::make_shared<const std::vector<Step>>(std::move(steps_));
  std::vector<c10::IValue> values(module_.slots_);
  for (const auto& [slot, tensor] : tensors_) values[slot] = tensor;
  module_.run_steps(images, values);
  std::map<std::string, c10::IValue> named;
  for (const auto& [name, slot] : slots_) named[name] = values[slot.index];
  return named;
}

REFINE_INLINE void ExportedCompiler::run() {
  const c10::NoGradGuard no_grad;
  translate();
  for (const formats::GraphOutput& output : program_.outputs) {
    if (output.value.empty()) continue;
    const auto shape = program_.shapes.find(output.value);
    module_.outputs_.push_back({output.name, output.value,
                                shape == program_.shapes.end() ? formats::GraphShape() : shape->second,
                                slot_of(output.value)});
  }
  if (module_.outputs_.empty()) fail("its forward returns no tensor");
  fold_batch_norms();
  mark_convolutions();
  module_.tensors_ = std::move(tensors_);
  module_.steps_ = std::make_shared<const std::vector<Step>>(std::move(steps_));
}

REFINE_INLINE void ExportedCompiler::read_inputs() {
  bool has_images = false;
  for (const formats::GraphInput& input : program_.inputs) {
    using Kind = formats::GraphInput::Kind;
    if (input.kind == Kind::constant) continue;
    if (input.kind == Kind::tensor) {
      const Slot slot = define(input.name);
      tensors_.emplace(slot.index, tensor_of(input.stored));
      guards_[slot.index] = Guard::tensors;
      continue;
    }
    if (has_images) fail("its forward requires another argument, '" + input.name + "'");
    const auto shape = program_.shapes.find(input.name);
    if (shape == program_.shapes.end()) fail("its forward takes no images");
    has_images = true;
    module_.images_ = shape->second;
    module_.image_slot_ = define(input.name);
    guards_[module_.image_slot_.index] = Guard::images;
  }
  if (!has_images) fail("its forward takes no images");
}

REFINE_INLINE at::Tensor view_of(const formats::ExportedProgram& program,
                                 const formats::StoredTensor& stored) {
  const at::ScalarType type = scalar_type(stored.type);
  const auto bytes = program.bytes.find(stored.entry);
  if (stored.count() == 0 || bytes == program.bytes.end()) return at::zeros(stored.sizes, type);
  // The reader has compared sizes, strides and offset with the bytes.
  const std::size_t offset = static_cast<std::size_t>(stored.offset) * c10::elementSize(type);
  return at::from_blob(const_cast<char*>(bytes->second.data()) + offset, stored.sizes, stored.strides, type);
}

REFINE_INLINE at::Tensor ExportedCompiler::tensor_of(const std::string& name) const {
  if (given_) {
    if (const auto given = given_->find(name); given != given_->end()) return given->second;
  }
  const auto stored = program_.tensors.find(name);
  if (stored == program_.tensors.end()) fail("its tensor '" + name + "' is missing");
  if (stored->second.count() > 0 && !program_.bytes.contains(stored->second.entry)) {
    fail("its file '" + stored->second.entry + "' is missing");
  }
  return view_of(program_, stored->second)
      .to(computed_type(stored->second.type), /*non_blocking=*/false, /*copy=*/true,
          at::MemoryFormat::Contiguous);
}

REFINE_INLINE Slot ExportedCompiler::define(const std::string& value) {
  const Slot slot{module_.slots_++};
  slots_[value] = slot;
  return slot;
}

REFINE_INLINE Slot ExportedCompiler::slot_of(const std::string& value) const {
  const auto found = slots_.find(value);
  if (found == slots_.end()) fail("its graph uses '" + value + "' before it is defined");
  return found->second;
}

REFINE_INLINE Slot ExportedCompiler::add_tensor(const at::Tensor& tensor) {
  const Slot slot{module_.slots_++};
  tensors_.emplace(slot.index, tensor);
  return slot;
}

REFINE_INLINE const at::Tensor* ExportedCompiler::tensor_at(const Operand& operand) const {
  const Slot* slot = std::get_if<Slot>(&operand);
  const auto found = slot ? tensors_.find(slot->index) : tensors_.end();
  return found == tensors_.end() ? nullptr : &found->second;
}

REFINE_INLINE void ExportedCompiler::add_node(const formats::GraphNode& node) {
  constexpr std::string_view integers = "_operator.";
  const std::string_view target = node.target;
  if (target.starts_with(integers)) {
    const std::string_view function = target.substr(integers.size());
    if (function == "add") return add_arithmetic(node, '+');
    if (function == "sub") return add_arithmetic(node, '-');
    if (function == "mul") return add_arithmetic(node, '*');
    if (function == "floordiv") return add_arithmetic(node, '/');
    if (function == "getitem" && node.inputs.size() == 2 && node.outputs.size() == 1) {
      const auto* list = std::get_if<std::vector<formats::ValueName>>(&node.inputs[0].second);
      const auto* index = std::get_if<std::int64_t>(&node.inputs[1].second);
      if (list && index && *index >= 0 && *index < static_cast<std::int64_t>(list->size())) {
        const Slot element = slot_of((*list)[static_cast<std::size_t>(*index)].name);
        return add_step(node, {.kind = Step::Kind::same, .name = node.name, .operands = {element}});
      }
    }
    fail(node, "is not arithmetic that refine knows");
  }
  const std::size_t dot = target.find('.', target.find("::"));
  const std::string name(target.substr(0, dot));
  std::string overload(dot == std::string_view::npos ? std::string_view() : target.substr(dot + 1));
  if (overload == "default") overload.clear();
  // They check what the program was exported with, such as a precision that is float32 here.
  if (name == "aten::_assert_tensor_metadata") return;
  if (name == "aten::sym_size") {
    const auto* tensor =
        node.inputs.size() == 2 ? std::get_if<formats::ValueName>(&node.inputs[0].second) : nullptr;
    const auto* dimension = tensor ? std::get_if<std::int64_t>(&node.inputs[1].second) : nullptr;
    if (!dimension || node.outputs.size() != 1) fail(node, "has arguments of the wrong kind");
    return add_step(node, {.kind = Step::Kind::size,
                           .name = node.name,
                           .operands = {slot_of(tensor->name), c10::IValue(*dimension)}});
  }
  const auto op = c10::Dispatcher::singleton().findSchema({name, overload});
  if (!op) fail(node, "calls an operator that this release of LibTorch lacks");
  add_call(node, *op);
}

REFINE_INLINE void ExportedCompiler::add_arithmetic(const formats::GraphNode& node, char sign) {
  Step step{.kind = Step::Kind::arithmetic, .name = node.name, .sign = sign};
  for (const auto& [parameter, argument] : node.inputs) {
    if (const auto* number = std::get_if<std::int64_t>(&argument)) {
      step.operands.emplace_back(c10::IValue(*number));
    } else if (const auto* value = std::get_if<formats::ValueName>(&argument)) {
      step.operands.emplace_back(slot_of(value->name));
    } else {
      fail(node, fmt::format("has {} where an integer is expected", formats::describe(argument)));
    }
  }
  if (step.operands.size() != 2 || node.outputs.size() != 1) fail(node, "does not have two arguments");
  add_step(node, std::move(step));
}

REFINE_INLINE void ExportedCompiler::add_call(const formats::GraphNode& node, const c10::OperatorHandle& op) {
  static const std::set<std::string> gradient_barriers = {"aten::detach", "aten::detach_", "aten::alias",
                                                          "aten::lift_fresh"};
  if (op.schema().name() == "aten::detach_copy") return add_call(node, operator_named("aten::clone"));
  const c10::FunctionSchema& schema = op.schema();
  Step step{.name = node.name, .op = op};
  std::map<std::string, const formats::GraphArgument*> given;
  for (const auto& [parameter, argument] : node.inputs) {
    if (!given.emplace(parameter, &argument).second) fail(node, "has the argument '" + parameter + "' twice");
  }
  for (const c10::Argument& parameter : schema.arguments()) {
    const auto found = given.find(parameter.name());
    if (found != given.end()) {
      step.operands.push_back(operand(node, parameter, *found->second));
      given.erase(found);
    } else if (parameter.default_value()) {
      step.operands.emplace_back(*parameter.default_value());
    } else {
      fail(node, "lacks the argument '" + parameter.name() + "'");
    }
    step.writes = step.writes || writes(schema, parameter);
  }
  if (!given.empty()) fail(node, "has an unknown argument, '" + given.begin()->first + "'");
  if (gradient_barriers.contains(schema.name())) {
    return add_step(node, {.kind = Step::Kind::same, .name = node.name, .operands = {step.operands.at(0)}});
  }
  check_mode(node, step);
  if (std::ranges::any_of(schema.arguments(), &c10::Argument::is_out))
    fail(node, "writes its results into given tensors");
  if (formats::operators::is_replaced(node.target)) return add_batch_norm(node, step);
  if (mixes_types_ && schema.name() == "aten::to") {
    // A conversion of types is a copy, which a change in place must not share. Here, it may convert nothing.
    if (const auto copy = schema.argumentIndexWithName("copy"))
      step.operands[static_cast<std::size_t>(*copy)] = c10::IValue(true);
  }
  const auto& returns = schema.returns();
  step.is_checked = is_checked(op.operator_name());
  step.returns_list = returns.size() == 1 && returns[0].type()->kind() == c10::TypeKind::ListType;
  const bool is_list =
      node.outputs.size() == 1 && std::holds_alternative<std::vector<formats::ValueName>>(node.outputs[0]);
  if (step.returns_list ? !is_list : node.outputs.size() > returns.size()) {
    fail(node, "returns another number of values than its operator");
  }
  add_step(node, std::move(step));
}

/// Adds a BatchNorm by the operator that compares the sizes of its arguments, in place of one whose kernel reads and writes
/// beyond them.
/// \param step the call of that operator, not in training mode
REFINE_INLINE void ExportedCompiler::add_batch_norm(const formats::GraphNode& node, const Step& step) {
  const c10::FunctionSchema& schema = step.op->schema();
  const auto operand = [&](const char* name) {
    return step.operands.at(static_cast<std::size_t>(*schema.argumentIndexWithName(name)));
  };
  Step checked{.name = node.name, .op = operator_named("aten::batch_norm")};
  for (const char* name : {"input", "weight", "bias", "running_mean", "running_var"})
    checked.operands.push_back(operand(name));
  checked.operands.emplace_back(c10::IValue(false));  // training
  checked.operands.push_back(operand("momentum"));
  checked.operands.push_back(operand("eps"));
  checked.operands.emplace_back(c10::IValue(true));  // cudnn_enabled
  formats::GraphNode normalized = node;
  normalized.outputs.resize(
      std::min<std::size_t>(normalized.outputs.size(), 1));  // the others are of training
  add_step(normalized, std::move(checked));
}

/// Adds a step with its results.
REFINE_INLINE void ExportedCompiler::add_step(const formats::GraphNode& node, Step step) {
  add_outputs(node, step);
  guard_memory(node, step);
  steps_.push_back(std::move(step));
}

/// Refuses layers that behave in another way while a network is trained.
REFINE_INLINE void ExportedCompiler::check_mode(const formats::GraphNode& node, const Step& step) const {
  const c10::FunctionSchema& schema = step.op->schema();
  const auto constant = [&](const char* name) {
    const auto i = schema.argumentIndexWithName(name);
    return i ? std::get_if<c10::IValue>(&step.operands[static_cast<std::size_t>(*i)]) : nullptr;
  };
  const auto is_true = [&](const char* name) {
    const c10::IValue* value = constant(name);
    return value && value->isBool() && value->toBool();
  };
  const auto is_none = [&](const char* name) {
    const c10::IValue* value = constant(name);
    return value && value->isNone();
  };
  // instance_norm updates the running statistics that it is given.
  const bool updates = is_true("use_input_stats") && !(is_none("running_mean") && is_none("running_var"));
  if (is_true("training") || is_true("train") || updates) fail(node, "is in training mode");
}

REFINE_INLINE void ExportedCompiler::add_outputs(const formats::GraphNode& node, Step& step) {
  for (const formats::GraphArgument& output : node.outputs) {
    if (const auto* name = std::get_if<formats::ValueName>(&output)) {
      step.outputs.emplace_back(define(name->name));
      if (step.kind == Step::Kind::size || step.kind == Step::Kind::arithmetic) {
        integers_.insert(step.outputs.back()->index);
      }
    } else if (const auto* names = std::get_if<std::vector<formats::ValueName>>(&output)) {
      if (!step.returns_list) fail(node, "returns a list, but its operator does not");
      for (const formats::ValueName& each : *names) step.outputs.emplace_back(define(each.name));
    } else {
      step.outputs.emplace_back(std::nullopt);
    }
  }
}

REFINE_INLINE ExportedCompiler::Guard ExportedCompiler::guard_of(const Operand& operand) const {
  Guard guard = Guard::nothing;
  for_each_slot(operand, [&](const Slot& slot) {
    const auto found = guards_.find(slot.index);
    if (found != guards_.end()) guard = std::max(guard, found->second);
  });
  return guard;
}

/// Follows which values share memory with the images and the tensors of the file, so that an
/// operator in place changes neither.
REFINE_INLINE void ExportedCompiler::guard_memory(const formats::GraphNode& node, const Step& step) {
  Guard shared = Guard::nothing;
  if (step.kind == Step::Kind::same) {
    shared = guard_of(step.operands[0]);
  } else if (step.kind == Step::Kind::call) {
    const c10::FunctionSchema& schema = step.op->schema();
    const bool aliases_all = hides_alias(schema.name());
    for (std::size_t i = 0; i < schema.arguments().size(); ++i) {
      const c10::Argument& parameter = schema.arguments()[i];
      const Guard guard = guard_of(step.operands[i]);
      if (aliases_all || parameter.alias_info()) shared = std::max(shared, guard);
      if (!writes(schema, parameter)) continue;
      if (guard == Guard::tensors) fail(node, "changes the program's own tensors while it runs");
      if (guard == Guard::images) module_.copies_images_ = true;
    }
  }
  if (shared == Guard::nothing) return;
  for (const auto& output : step.outputs) {
    if (output) guards_[output->index] = shared;
  }
}

REFINE_INLINE void ExportedCompiler::mismatch(const formats::GraphNode& node, const c10::Argument& parameter,
                                              const formats::GraphArgument& argument) const {
  fail(node, fmt::format("has {} for the argument '{}', expected {}", formats::describe(argument),
                         parameter.name(), parameter.type()->repr_str()));
}

REFINE_INLINE IntegerOperand ExportedCompiler::integer(const formats::GraphInteger& value) const {
  if (const auto* name = std::get_if<formats::ValueName>(&value)) return slot_of(name->name);
  return std::get<std::int64_t>(value);
}

REFINE_INLINE Operand ExportedCompiler::operand(const formats::GraphNode& node,
                                                const c10::Argument& parameter,
                                                const formats::GraphArgument& argument) const {
  c10::TypePtr type = parameter.type();
  const bool is_none = std::holds_alternative<std::monostate>(argument);
  if (const auto optional = type->cast<c10::OptionalType>()) {
    if (is_none) return c10::IValue();
    type = optional->getElementType();
  }
  if (is_none) mismatch(node, parameter, argument);
  const auto* value = std::get_if<formats::ValueName>(&argument);
  const auto* number = std::get_if<std::int64_t>(&argument);
  const auto* real = std::get_if<double>(&argument);
  const auto* truth = std::get_if<bool>(&argument);
  const bool is_tensor = value && !integers_.contains(slot_of(value->name).index);
  switch (type->kind()) {
    case c10::TypeKind::TensorType:
      if (is_tensor) return slot_of(value->name);
      if (value) return ScalarOf{slot_of(value->name)};
      if (number) return c10::IValue(at::native::wrapped_scalar_tensor(*number));
      if (real) return c10::IValue(at::native::wrapped_scalar_tensor(*real));
      if (truth) return c10::IValue(at::native::wrapped_scalar_tensor(*truth));
      break;
    case c10::TypeKind::NumberType:
      if (value && !is_tensor) return slot_of(value->name);
      if (number) return c10::IValue(*number);
      if (real) return c10::IValue(*real);
      if (truth) return c10::IValue(*truth);
      break;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
    case c10::TypeKind::ScalarTypeType:
    case c10::TypeKind::LayoutType:
    case c10::TypeKind::MemoryFormatType:
      if (value && !is_tensor) return slot_of(value->name);
      if (number) return c10::IValue(*number);
      if (const auto* element = std::get_if<formats::ElementType>(&argument)) {
        return c10::IValue(static_cast<std::int64_t>(computed_type(*element)));
      }
      if (const auto* format = std::get_if<formats::GraphMemoryFormat>(&argument)) {
        return c10::IValue(static_cast<std::int64_t>(memory_format(*format)));
      }
      if (std::holds_alternative<formats::GraphStrided>(argument)) {
        return c10::IValue(static_cast<std::int64_t>(c10::kStrided));
      }
      break;
    case c10::TypeKind::FloatType:
      if (real) return c10::IValue(*real);
      if (number) return c10::IValue(static_cast<double>(*number));
      break;
    case c10::TypeKind::BoolType:
      if (truth) return c10::IValue(*truth);
      break;
    case c10::TypeKind::StringType:
      if (const auto* text = std::get_if<std::string>(&argument)) return c10::IValue(*text);
      break;
    case c10::TypeKind::DeviceObjType:
      if (std::holds_alternative<formats::GraphDevice>(argument)) return ImageDevice();
      break;
    case c10::TypeKind::ListType:
      return list_operand(node, parameter, type->castRaw<c10::ListType>()->getElementType(), argument);
    default:
      break;
  }
  mismatch(node, parameter, argument);
}

REFINE_INLINE Operand ExportedCompiler::list_operand(const formats::GraphNode& node,
                                                     const c10::Argument& parameter,
                                                     const c10::TypePtr& element,
                                                     const formats::GraphArgument& argument) const {
  const auto* integers = std::get_if<std::vector<formats::GraphInteger>>(&argument);
  switch (element->kind()) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: {
      std::vector<IntegerOperand> numbers;
      if (const auto* number = std::get_if<std::int64_t>(&argument)) {  // an int stands for a list
        numbers.emplace_back(*number);
      } else if (const auto* value = std::get_if<formats::ValueName>(&argument)) {
        numbers.emplace_back(slot_of(value->name));
      } else if (integers) {
        for (const formats::GraphInteger& each : *integers) numbers.push_back(integer(each));
      } else {
        mismatch(node, parameter, argument);
      }
      for (const IntegerOperand& each : numbers) {
        const Slot* slot = std::get_if<Slot>(&each);
        if (slot && !integers_.contains(slot->index)) mismatch(node, parameter, argument);
      }
      std::vector<std::int64_t> constant;
      for (const IntegerOperand& each : numbers) {
        if (const auto* number = std::get_if<std::int64_t>(&each)) constant.push_back(*number);
      }
      if (constant.size() == numbers.size()) return c10::IValue(std::move(constant));
      return numbers;
    }
    case c10::TypeKind::FloatType: {
      if (const auto* numbers = std::get_if<std::vector<double>>(&argument)) return c10::IValue(*numbers);
      if (!integers) break;
      std::vector<double> numbers;
      for (const formats::GraphInteger& each : *integers) {
        const auto* number = std::get_if<std::int64_t>(&each);
        if (!number) mismatch(node, parameter, argument);
        numbers.push_back(static_cast<double>(*number));
      }
      return c10::IValue(std::move(numbers));
    }
    case c10::TypeKind::BoolType: {
      const auto* values = std::get_if<std::vector<bool>>(&argument);
      if (!values) break;
      c10::List<bool> list;
      for (const bool each : *values) list.push_back(each);
      return c10::IValue(std::move(list));
    }
    case c10::TypeKind::TensorType:
    case c10::TypeKind::OptionalType: {
      TensorListOperand list{.is_optional = element->kind() == c10::TypeKind::OptionalType};
      if (list.is_optional &&
          element->castRaw<c10::OptionalType>()->getElementType()->kind() != c10::TypeKind::TensorType) {
        break;
      }
      const auto add = [&](const formats::ValueName& value) {
        const Slot slot = slot_of(value.name);
        if (integers_.contains(slot.index)) mismatch(node, parameter, argument);
        list.slots.emplace_back(slot);
      };
      if (const auto* tensors = std::get_if<std::vector<formats::ValueName>>(&argument)) {
        for (const formats::ValueName& each : *tensors) add(each);
        return list;
      }
      if (integers && integers->empty()) return list;
      const auto* optionals = std::get_if<std::vector<std::optional<formats::ValueName>>>(&argument);
      if (!optionals) break;
      for (const auto& each : *optionals) {
        if (each) {
          add(*each);
        } else if (list.is_optional) {
          list.slots.emplace_back(std::nullopt);
        } else {
          mismatch(node, parameter, argument);
        }
      }
      return list;
    }
    default:
      break;
  }
  mismatch(node, parameter, argument);
}

/// Returns the operator of a call without its overload: "aten::conv2d".
inline std::string_view operator_name(const Step& step) {
  return step.kind == Step::Kind::call && step.op ? std::string_view(step.op->schema().name())
                                                  : std::string_view();
}

REFINE_INLINE void ExportedCompiler::fold_batch_norms() {
  std::map<std::size_t, std::size_t> uses;
  const auto count = [&](const Slot& slot) { ++uses[slot.index]; };
  for (const Step& step : steps_) for_each_read(step, count);
  for (const ExportedModule::Output& output : module_.outputs_) count(output.slot);
  std::map<std::size_t, std::size_t> convolutions;  // by the slot of the result
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    Step& step = steps_[i];
    const std::string_view name = operator_name(step);
    if (name == "aten::conv2d" && step.outputs.size() == 1 && step.outputs[0]) {
      convolutions[step.outputs[0]->index] = i;
    }
    if (name != "aten::batch_norm") continue;
    const Slot* input = std::get_if<Slot>(&step.operands.at(0));
    const auto found = input ? convolutions.find(input->index) : convolutions.end();
    if (found == convolutions.end() || uses[input->index] != 1 || step.outputs.size() != 1) continue;
    if (fold(steps_[found->second], step)) {
      step = Step{.kind = Step::Kind::same,
                  .name = step.name,
                  .operands = {step.operands[0]},
                  .outputs = step.outputs};
    }
  }
}

REFINE_INLINE bool ExportedCompiler::fold(Step& convolution, const Step& norm) {
  const auto number = [](const Operand& operand) {
    const auto* value = std::get_if<c10::IValue>(&operand);
    return value && value->isDouble() ? std::optional(value->toDouble()) : std::nullopt;
  };
  const auto is_none = [](const Operand& operand) {
    const auto* value = std::get_if<c10::IValue>(&operand);
    return value && value->isNone();
  };
  // conv2d: input, weight, bias, …; batch_norm: input, weight, bias, mean, variance, training, momentum, eps
  const at::Tensor* weight = tensor_at(convolution.operands.at(1));
  const at::Tensor* bias = tensor_at(convolution.operands.at(2));
  const at::Tensor* gain = tensor_at(norm.operands.at(1));
  const at::Tensor* shift = tensor_at(norm.operands.at(2));
  const at::Tensor* mean = tensor_at(norm.operands.at(3));
  const at::Tensor* variance = tensor_at(norm.operands.at(4));
  const auto eps = number(norm.operands.at(7));
  const auto is_missing = [&](const Operand& operand, const at::Tensor* tensor) {
    return !tensor && !is_none(operand);
  };
  if (!weight || !mean || !variance || !eps || weight->dim() != 4 ||
      is_missing(convolution.operands[2], bias) || is_missing(norm.operands[1], gain) ||
      is_missing(norm.operands[2], shift)) {
    return false;
  }
  const std::int64_t channels = weight->size(0);
  for (const at::Tensor* each : {bias, gain, shift, mean, variance}) {
    if (each && (each->dim() != 1 || each->size(0) != channels || each->scalar_type() != at::kFloat))
      return false;
  }
  if (weight->scalar_type() != at::kFloat) return false;
  // In double: folding costs no accuracy.
  at::Tensor scale = (variance->to(at::kDouble) + *eps).rsqrt();
  if (gain) scale = scale * gain->to(at::kDouble);
  at::Tensor offset = -mean->to(at::kDouble);
  if (bias) offset = offset + bias->to(at::kDouble);
  offset = offset * scale;
  if (shift) offset = offset + shift->to(at::kDouble);
  convolution.operands[1] = add_tensor((weight->to(at::kDouble) * scale.view({-1, 1, 1, 1})).to(at::kFloat));
  convolution.operands[2] = add_tensor(offset.to(at::kFloat));
  return true;
}

REFINE_INLINE void ExportedCompiler::mark_convolutions() {
  const auto is = [](const Operand& operand, const c10::IValue& expected) {
    const auto* value = std::get_if<c10::IValue>(&operand);
    if (!value) return false;
    if (value->isIntList() && expected.isIntList()) return value->toIntVector() == expected.toIntVector();
    return value->isInt() && expected.isInt() && value->toInt() == expected.toInt();
  };
  const auto is_false = [](const Operand& operand) {
    const auto* value = std::get_if<c10::IValue>(&operand);
    return value && value->isBool() && !value->toBool();
  };
  const c10::IValue one(std::vector<std::int64_t>{1, 1});
  for (Step& step : steps_) {
    const std::string_view name = operator_name(step);
    const bool is_any = name == "aten::convolution";
    if ((!is_any && name != "aten::conv2d") || !step.op->schema().overload_name().empty()) continue;
    const at::Tensor* weight = tensor_at(step.operands.at(1));
    const auto* no_bias = std::get_if<c10::IValue>(&step.operands.at(2));
    const std::size_t groups = is_any ? 8 : 6;  // behind transposed and output_padding
    if (weight && weight->dim() == 4 && weight->size(2) == 3 && weight->size(3) == 3 &&
        (tensor_at(step.operands[2]) || (no_bias && no_bias->isNone())) && is(step.operands.at(3), one) &&
        is(step.operands.at(4), one) && is(step.operands.at(5), one) &&
        is(step.operands.at(groups), c10::IValue(1)) && (!is_any || is_false(step.operands.at(6)))) {
      step.kind = Step::Kind::same_3x3;
    } else if (is_any) {
      step.kind = Step::Kind::convolution;
    }
  }
}

// --- the module ------------------------------------------------------------------------------------------

REFINE_INLINE ExportedModule::ExportedModule(formats::ExportedProgram program, std::string name)
    : torch::nn::Module("exported"),
      name_(std::move(name)),
      program_(std::make_shared<const formats::ExportedProgram>(std::move(program))) {
  ExportedCompiler(*this, *program_).run();
  eval();
}

REFINE_INLINE ExportedModule::ExportedModule(const ExportedModule& other, Copy)
    : torch::nn::Module("exported"),
      name_(other.name_),
      program_(other.program_),
      steps_(other.steps_),
      tensors_(other.tensors_),
      tensor_slots_(other.tensor_slots_),
      slots_(other.slots_),
      image_slot_(other.image_slot_),
      output_slot_(other.output_slot_),
      output_value_(other.output_value_),
      images_(other.images_),
      outputs_(other.outputs_),
      copies_images_(other.copies_images_),
      channels_last_(other.channels_last_),
      batch_(other.batch_) {
  for (const auto& item : other.named_buffers(/*recurse=*/false)) {
    register_buffer(item.key(), item.value().clone());
  }
  eval();
}

REFINE_INLINE std::shared_ptr<torch::nn::Module> ExportedModule::clone(
    const std::optional<torch::Device>& device) const {
  auto copy = std::shared_ptr<ExportedModule>(new ExportedModule(*this, Copy{}));
  if (device) copy->to(*device);
  return copy;
}

REFINE_INLINE std::shared_ptr<ExportedModule> ExportedModule::with_output(std::size_t index) const {
  auto copy = std::shared_ptr<ExportedModule>(new ExportedModule(*this, Copy{}));
  copy->select_output(index);
  return copy;
}

REFINE_INLINE void ExportedModule::select_output(std::size_t index) {
  output_slot_ = outputs_.at(index).slot;
  output_value_ = outputs_.at(index).value;
  std::vector<Step> kept;
  std::vector<bool> is_needed(slots_, false), is_tensor(slots_, false);
  for (const auto& [slot, tensor] : tensors_) is_tensor[slot] = true;
  is_needed[output_slot_.index] = true;
  for (auto step = steps_->rbegin(); step != steps_->rend(); ++step) {
    const bool has_use =
        step->writes || std::ranges::any_of(step->outputs, [&](const std::optional<Slot>& output) {
          return output && is_needed[output->index];
        });
    if (!has_use) continue;
    kept.push_back(*step);
    kept.back().dead.clear();
    for (const auto& output : step->outputs) {  // results that nothing uses
      if (output && !is_needed[output->index]) kept.back().dead.push_back(*output);
    }
    for_each_read(*step, [&](const Slot& slot) {
      if (!is_needed[slot.index] && !is_tensor[slot.index]) kept.back().dead.push_back(slot);
      is_needed[slot.index] = true;
    });
  }
  std::ranges::reverse(kept);
  steps_ = std::make_shared<const std::vector<Step>>(std::move(kept));
  for (const auto& [slot, tensor] : tensors_) {
    if (!is_needed[slot]) continue;
    register_buffer("tensor_" + std::to_string(tensor_slots_.size()), tensor);
    tensor_slots_.push_back({slot});
  }
  tensors_.clear();
}

REFINE_INLINE void ExportedModule::use_channels_last(bool yes) {
  channels_last_ = yes;
  for (auto& buffer : buffers(/*recurse=*/false)) {
    if (buffer.dim() != 4) continue;
    buffer.set_data(buffer.contiguous(yes ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
  }
}

REFINE_INLINE at::Tensor ExportedModule::forward(const at::Tensor& images) {
  const at::Tensor x = channels_last_ ? images : images.contiguous();
  if (torch::jit::tracer::isTracing()) return forward_traced(x);
  return run_batches(x);
}

REFINE_INLINE at::Tensor ExportedModule::run_batches(const at::Tensor& images) const {
  const std::int64_t n = images.size(0);
  if (batch_ == 0 || n == batch_) return run(images);
  std::vector<at::Tensor> results;
  std::int64_t first = 0;
  do {  // no image is a batch, too: its result has the number of classes
    const std::int64_t size = std::min(batch_, n - first);
    at::Tensor part = images.narrow(0, first, size);
    if (size < batch_) {
      std::vector<std::int64_t> missing = images.sizes().vec();
      missing[0] = batch_ - size;
      part = at::cat({part, at::zeros(missing, images.options())});
    }
    results.push_back(run(channels_last_ ? part : part.contiguous()).narrow(0, 0, size));
    first += batch_;
  } while (first < n);
  return at::cat(results);
}

/// Computes an integer of a step.
inline std::int64_t compute(const Step& step, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  const bool overflow = step.sign == '+'   ? __builtin_add_overflow(a, b, &result)
                        : step.sign == '-' ? __builtin_sub_overflow(a, b, &result)
                        : step.sign == '*' ? __builtin_mul_overflow(a, b, &result)
                                           : b == 0 || (a == INT64_MIN && b == -1);
  if (overflow) {
    throw Error(
        "exported program: the size '{}' cannot be computed from {} and {}; use images of the size that it "
        "was exported with",
        step.name, a, b);
  }
  if (step.sign != '/') return result;
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);  // Python rounds down
}

REFINE_INLINE at::Tensor ExportedModule::run(const at::Tensor& images) const {
  std::vector<c10::IValue> values(slots_);
  std::size_t position = 0;
  for (const auto& buffer : buffers(/*recurse=*/false)) values[tensor_slots_[position++].index] = buffer;
  run_steps(images, values);
  return values[output_slot_.index].toTensor();
}

REFINE_INLINE void ExportedModule::run_steps(const at::Tensor& images,
                                             std::vector<c10::IValue>& values) const {
  values[image_slot_.index] = copies_images_ ? images.clone() : images;
  const auto integer = [&](const IntegerOperand& operand) {
    const auto* slot = std::get_if<Slot>(&operand);
    return slot ? values[slot->index].toInt() : std::get<std::int64_t>(operand);
  };
  const auto value_of = [&](const Operand& operand) -> c10::IValue {
    if (const auto* constant = std::get_if<c10::IValue>(&operand)) return *constant;
    if (const auto* slot = std::get_if<Slot>(&operand)) return values[slot->index];
    if (const auto* scalar = std::get_if<ScalarOf>(&operand)) {
      return at::native::wrapped_scalar_tensor(values[scalar->slot.index].toInt());
    }
    if (std::holds_alternative<ImageDevice>(operand)) return images.device();
    if (const auto* numbers = std::get_if<std::vector<IntegerOperand>>(&operand)) {
      std::vector<std::int64_t> list;
      for (const IntegerOperand& number : *numbers) list.push_back(integer(number));
      return list;
    }
    const auto& tensors = std::get<TensorListOperand>(operand);
    if (tensors.is_optional) {
      c10::List<std::optional<at::Tensor>> list;
      for (const auto& slot : tensors.slots) {
        list.push_back(slot ? std::optional(values[slot->index].toTensor()) : std::nullopt);
      }
      return list;
    }
    c10::List<at::Tensor> list;
    for (const auto& slot : tensors.slots) list.push_back(values[slot->index].toTensor());
    return list;
  };
  torch::jit::Stack stack;
  for (const Step& step : *steps_) {
    const auto set = [&](std::size_t i, c10::IValue value) {
      if (i < step.outputs.size() && step.outputs[i]) values[step.outputs[i]->index] = std::move(value);
    };
    if (step.kind == Step::Kind::same) {
      set(0, value_of(step.operands[0]));
    } else if (step.kind == Step::Kind::size) {
      set(0, value_of(step.operands[0]).toTensor().size(value_of(step.operands[1]).toInt()));
    } else if (step.kind == Step::Kind::arithmetic) {
      set(0, compute(step, value_of(step.operands[0]).toInt(), value_of(step.operands[1]).toInt()));
    } else if (step.kind == Step::Kind::same_3x3 || step.kind == Step::Kind::convolution) {
      const at::Tensor x = value_of(step.operands[0]).toTensor(),
                       weight = value_of(step.operands[1]).toTensor();
      const c10::IValue given = value_of(step.operands[2]);
      const at::Tensor bias = given.isNone() ? at::Tensor() : given.toTensor();
      if (step.kind == Step::Kind::same_3x3) {
        set(0, nn::convolve(x, weight, bias));
      } else {
        set(0, nn::convolve(x, weight, bias,
                            {.stride = value_of(step.operands[3]).toIntVector(),
                             .padding = value_of(step.operands[4]).toIntVector(),
                             .dilation = value_of(step.operands[5]).toIntVector(),
                             .transposed = value_of(step.operands[6]).toBool(),
                             .output_padding = value_of(step.operands[7]).toIntVector(),
                             .groups = value_of(step.operands[8]).toInt()}));
      }
    } else {
      stack.clear();
      for (const Operand& operand : step.operands) stack.push_back(value_of(operand));
      if (step.is_checked) check_arguments(step.op->operator_name(), stack);
      step.op->callBoxed(stack);
      if (step.returns_list) {
        const auto list = stack.at(0).toTensorVector();
        if (list.size() != step.outputs.size()) {
          throw Error(
              "cannot use {}: its node '{}' returns {} tensors, but {} were exported; use images of the size "
              "that it was exported with",
              name_, step.name, list.size(), step.outputs.size());
        }
        for (std::size_t i = 0; i < list.size(); ++i) set(i, list[i]);
      } else {
        for (std::size_t i = 0; i < stack.size(); ++i) set(i, std::move(stack[i]));
      }
    }
    for (const Slot& slot : step.dead) values[slot.index] = c10::IValue();
  }
}

REFINE_INLINE std::map<std::string, c10::IValue> run_program(const formats::ExportedProgram& program,
                                                             const std::map<std::string, at::Tensor>& tensors,
                                                             const at::Tensor& images,
                                                             const std::string& name) {
  ExportedModule module(ExportedModule::Unprepared{}, name);
  return ExportedCompiler(module, program, &tensors).run_unchanged(images);
}

REFINE_INLINE ImageShape image_shape(const formats::GraphShape& images, const ImageShape& specified,
                                     const ImageShape& likely, const std::string& subject,
                                     std::string_view option) {
  constexpr std::int64_t max_extent = 1 << 14;
  if (images.sizes.size() != 4) {
    throw Error("{}: its forward takes a tensor of {} dimensions, expected images N×C×H×W", subject,
                images.sizes.size());
  }
  if (!at::isFloatingType(scalar_type(images.type))) {
    throw Error("{}: its forward takes images of {}, expected float in [0, 1]", subject,
                formats::element_name(images.type));
  }
  ImageShape in_file, example;
  int* const extents[] = {&in_file.channels, &in_file.height, &in_file.width};
  int* const examples[] = {&example.channels, &example.height, &example.width};
  for (std::size_t i = 0; i < 3; ++i) {
    const auto known = images.sizes[i + 1];
    if (known && (*known < 1 || *known > max_extent))
      throw Error("{}: its images have an extent out of range (got {}, expected 1 to {})", subject, *known,
                  max_extent);
    if (known) *extents[i] = static_cast<int>(*known);
    const std::int64_t usual = images.example[i + 1];
    if (usual >= 1 && usual <= max_extent) *examples[i] = static_cast<int>(usual);
  }
  if (!compatible(specified, in_file)) {
    throw Error("{}: its images are {}, but {} were specified; leave {} out", subject, in_file, specified,
                option);
  }
  ImageShape shape = merged(specified, in_file);
  if (compatible(likely, shape)) shape = merged(shape, likely);
  shape = merged(shape, example);
  if (!shape.is_static()) {
    throw Error("{}: it does not specify how large its images are (got {}); specify {}", subject, shape,
                option);
  }
  const double values = static_cast<double>(shape.channels) * shape.height * shape.width;
  if (values > static_cast<double>(max_image_values)) {
    throw Error("{}: its images are too large (got {}, expected up to {} values)", subject, shape,
                max_image_values);
  }
  const std::int64_t batch = images.sizes[0].value_or(1);
  if (batch < 1 || batch > max_fixed_batch) {
    throw Error("{}: its batch size is out of range (got {}, expected 1 to {}); export it for any batch size",
                subject, batch, max_fixed_batch);
  }
  if (values * static_cast<double>(batch) > static_cast<double>(max_batch_values)) {
    throw Error(
        "{}: its batches are too large (got {} images of {}, expected up to {} values); export it for any batch size",
        subject, batch, shape, max_batch_values);
  }
  return shape;
}

REFINE_INLINE std::string sizes_text(const formats::GraphShape& shape) {
  std::string text;
  for (const auto& size : shape.sizes)
    text += (text.empty() ? "" : "×") + (size ? std::to_string(*size) : "N");
  return text.empty() ? "scalar" : text;
}

// --- traces ----------------------------------------------------------------------------------------------

REFINE_INLINE ExportedModule::ScopedSplices::ScopedSplices() : outer_(current()) {
  current() = this;
}

REFINE_INLINE ExportedModule::ScopedSplices::~ScopedSplices() {
  current() = outer_;
}

REFINE_INLINE c10::Symbol ExportedModule::ScopedSplices::position() {
  return c10::Symbol::attr("refine_position");
}

REFINE_INLINE ExportedModule::ScopedSplices*& ExportedModule::ScopedSplices::current() {
  thread_local ScopedSplices* splices = nullptr;
  return splices;
}

REFINE_INLINE bool ExportedModule::is_float32() const {
  return !has_other_types(*program_) && !is_converted_type(images_.type);
}

REFINE_INLINE at::Tensor ExportedModule::forward_traced(const at::Tensor& images) {
  namespace tracer = torch::jit::tracer;
  torch::jit::Graph& graph = *tracer::getTracingState()->graph;
  std::vector<torch::jit::Value*> tensors;
  torch::jit::Value* const input = tracer::getValueTrace(images);
  torch::jit::Value* result = nullptr;
  ScopedSplices* const splices = ScopedSplices::current();
  if (splices && batch_ != 0) {
    throw Error(
        "cannot write {} as .pt2 or ONNX: it was exported for batches of {} images; write TorchScript (.pt), or export it "
        "again for any batch size: "
        "torch.export.export(model.eval(), (images,), dynamic_shapes=({{0: torch.export.Dim.DYNAMIC}},))",
        name_, batch_);
  }
  if (splices && is_float32()) {
    static const c10::Symbol clone = c10::Symbol::fromQualString("aten::clone");
    result = graph.insert(clone, {input});
    result->node()->i_(ScopedSplices::position(), static_cast<std::int64_t>(splices->splices_.size()));
    splices->splices_.push_back({program_, output_value_, copies_images_});
  } else {
    for (const auto& buffer : buffers(/*recurse=*/false)) tensors.push_back(tracer::getValueTrace(buffer));
    result = batch_ == 0 ? insert(graph, input, tensors) : insert_batches(graph, input, tensors);
  }
  const auto resume = tracer::pauseTracing();
  at::Tensor output;
  try {
    output = run_batches(images);
  } catch (...) {
    resume();
    throw;
  }
  resume();
  tracer::setValueTrace(output, result);
  return output;
}

REFINE_INLINE std::string ExportedModule::code() const {
  torch::jit::Graph graph;
  torch::jit::Value* const images = graph.addInput("images");
  std::vector<torch::jit::Value*> tensors;
  for (std::size_t i = 0; i < tensor_slots_.size(); ++i) tensors.push_back(graph.addInput());
  graph.registerOutput(batch_ == 0 ? insert(graph, images, tensors) : insert_batches(graph, images, tensors));
  return graph.toString(/*print_source_locations=*/false);
}

REFINE_INLINE torch::jit::Value* ExportedModule::insert(
    torch::jit::Graph& graph, torch::jit::Value* images,
    const std::vector<torch::jit::Value*>& tensors) const {
  using torch::jit::Node;
  using torch::jit::Value;
  std::vector<Value*> values(slots_, nullptr);
  static const c10::Symbol clone = c10::Symbol::fromQualString("aten::clone");
  values[image_slot_.index] = copies_images_ ? graph.insert(clone, {images}) : images;
  for (std::size_t i = 0; i < tensors.size(); ++i) values[tensor_slots_[i].index] = tensors[i];
  Value* device = nullptr;
  const auto list_of = [&](const c10::TypePtr& type, const std::vector<Value*>& elements) {
    return graph.insertNode(graph.createList(type, elements))->output();
  };
  const auto value_of = [&](const Operand& operand) -> Value* {
    if (const auto* constant = std::get_if<c10::IValue>(&operand)) return graph.insertConstant(*constant);
    if (const auto* slot = std::get_if<Slot>(&operand)) return values[slot->index];
    if (const auto* scalar = std::get_if<ScalarOf>(&operand)) {
      return graph.insert(c10::prim::NumToTensor, {values[scalar->slot.index]});
    }
    if (std::holds_alternative<ImageDevice>(operand)) {
      if (!device) {
        Node* node = graph.insertNode(graph.create(c10::prim::device, {images}));
        node->output()->setType(c10::DeviceObjType::get());
        device = node->output();
      }
      return device;
    }
    std::vector<Value*> elements;
    if (const auto* numbers = std::get_if<std::vector<IntegerOperand>>(&operand)) {
      for (const IntegerOperand& number : *numbers) {
        const auto* slot = std::get_if<Slot>(&number);
        elements.push_back(slot ? values[slot->index] : graph.insertConstant(std::get<std::int64_t>(number)));
      }
      return list_of(c10::IntType::get(), elements);
    }
    const auto& list = std::get<TensorListOperand>(operand);
    for (const auto& slot : list.slots) {
      elements.push_back(slot ? values[slot->index] : graph.insertConstant(c10::IValue()));
    }
    const c10::TypePtr type =
        list.is_optional ? c10::TypePtr(c10::OptionalType::ofTensor()) : c10::TensorType::get();
    return list_of(type, elements);
  };
  for (const Step& step : *steps_) {
    const auto set = [&](std::size_t i, Value* value) {
      if (i < step.outputs.size() && step.outputs[i]) values[step.outputs[i]->index] = value;
    };
    if (step.kind == Step::Kind::same) {
      set(0, value_of(step.operands[0]));
      continue;
    }
    if (step.kind == Step::Kind::size) {
      set(0, graph.insert(c10::aten::size, {value_of(step.operands[0]), value_of(step.operands[1])}));
      continue;
    }
    if (step.kind == Step::Kind::arithmetic) {
      const c10::Symbol symbol = step.sign == '+'   ? c10::aten::add
                                 : step.sign == '-' ? c10::aten::sub
                                 : step.sign == '*' ? c10::aten::mul
                                                    : c10::aten::floordiv;
      set(0, graph.insert(symbol, {value_of(step.operands[0]), value_of(step.operands[1])}));
      continue;
    }
    std::vector<Value*> inputs;
    for (const Operand& operand : step.operands) inputs.push_back(value_of(operand));
    const auto& returns = step.op->schema().returns();
    Node* node = graph.insertNode(
        graph.create(c10::Symbol::fromQualString(step.op->schema().name()), inputs, returns.size()));
    for (std::size_t i = 0; i < returns.size(); ++i) node->output(i)->setType(returns[i].type());
    if (step.returns_list) {
      Node* unpack = graph.insertNode(graph.createListUnpack(node->output(), step.outputs.size()));
      for (std::size_t i = 0; i < step.outputs.size(); ++i) set(i, unpack->output(i));
    } else {
      for (std::size_t i = 0; i < returns.size(); ++i) set(i, node->output(i));
    }
  }
  return values[output_slot_.index];
}

REFINE_INLINE torch::jit::Value* ExportedModule::insert_batches(
    torch::jit::Graph& graph, torch::jit::Value* images,
    const std::vector<torch::jit::Value*>& tensors) const {
  using torch::jit::Value;
  const auto number = [&](std::int64_t n) { return graph.insertConstant(n); };
  const auto symbol = [](const char* name) { return c10::Symbol::fromQualString(name); };
  Value* const zero = number(0);
  Value* const batch = number(batch_);
  Value* const yes = graph.insertConstant(true);
  Value* const count = graph.insert(c10::aten::size, {images, zero});
  Value* const rounds =
      graph.insert(c10::aten::floordiv, {graph.insert(c10::aten::add, {count, number(batch_ - 1)}), batch});
  Value* const results = graph.insertNode(graph.createList(c10::TensorType::get(), {}))->output();
  torch::jit::Node* const loop = graph.insertNode(graph.create(c10::prim::Loop, {rounds, yes}, 0));
  torch::jit::Block* const body = loop->addBlock();
  Value* const round = body->addInput();
  round->setType(c10::IntType::get());
  {
    const torch::jit::WithInsertPoint inside(body);
    Value* const one = number(1);
    Value* const first = graph.insert(c10::aten::mul, {round, batch});
    Value* const end = graph.insert(c10::aten::add, {first, batch});
    Value* const part = graph.insert(c10::aten::slice, {images, number(0), first, end, one});
    Value* const size = graph.insert(c10::aten::size, {part, number(0)});
    // Fills up the last batch with copies of its first image times 0.
    Value* const missing = graph.insert(c10::aten::sub, {batch, size});
    Value* const single = graph.insert(c10::aten::slice, {part, number(0), number(0), one, one});
    Value* const nothing = graph.insert(symbol("aten::zeros_like"), {single});
    Value* const repeats =
        graph.insertNode(graph.createList(c10::IntType::get(), {missing, one, one, one}))->output();
    Value* const padding = graph.insert(symbol("aten::repeat"), {nothing, repeats});
    Value* const both = graph.insertNode(graph.createList(c10::TensorType::get(), {part, padding}))->output();
    Value* const filled = graph.insert(c10::aten::cat, {both, number(0)});
    Value* const result = insert(graph, filled, tensors);
    Value* const wanted = graph.insert(c10::aten::slice, {result, number(0), number(0), size, one});
    graph.insert(c10::aten::append, {results, wanted});
    body->registerOutput(graph.insertConstant(true));
  }
  return graph.insert(c10::aten::cat, {results, zero});
}

}  // namespace refine::backbones::detail
