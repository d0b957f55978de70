#pragma once

#include <refine/programs/detail/scripted_module.hpp>

#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <ATen/core/jit_type.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/canonicalize.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/freeze_module.h>
#include <torch/csrc/jit/passes/frozen_graph_optimizations.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/lower_tuples.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <regex>
#include <set>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/nn/conv.hpp>
#include <refine/programs/detail/program_checks.hpp>

namespace refine::backbones::detail {

/// True for half and double precision, which are converted to float32.
inline bool is_converted(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16 || type == at::kDouble;
}

/// Returns a value with its tensors of half and double precision converted to float32. Other
/// tensors, such as those of integers, are unchanged.
inline c10::IValue to_float32(const c10::IValue& value) {
  const auto convert = [](const at::Tensor& t) {
    return t.defined() && is_converted(t.scalar_type()) ? t.detach().to(at::kFloat) : t;
  };
  if (value.isTensor()) return convert(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& element : value.toTensorVector()) list.push_back(convert(element));
    return list;
  }
  if (value.isTuple()) {
    std::vector<c10::IValue> elements;
    for (const c10::IValue& element : value.toTupleRef().elements()) elements.push_back(to_float32(element));
    const auto type = value.toTupleRef().type();
    return type->schema() ? c10::IValue(c10::ivalue::Tuple::createNamed(std::move(elements), type))
                          : c10::IValue(c10::ivalue::Tuple::create(std::move(elements)));
  }
  if (value.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) item.setValue(to_float32(item.value()));
  }
  return value;
}

/// True if an argument of a node is the constant None.
inline bool is_none(const torch::jit::Node& node, const char* argument) {
  const auto value = torch::jit::toIValue(node.namedInput(argument));
  return value && value->isNone();
}

/// True if a node may write to its input `i`, which its schema declares as read-only.
inline bool hides_write(const torch::jit::Node& node, std::size_t i) {
  const c10::FunctionSchema& schema = node.schema();
  bool is_training = false;
  for (const char* mode : {"training", "use_input_stats"}) {
    if (!schema.argumentIndexWithName(mode)) continue;
    const auto value = torch::jit::toIValue(node.namedInput(mode));
    is_training = is_training || !value || !value->isBool() || value->toBool();
  }
  const auto operand = torch::jit::toIValue(node.input(i));
  return hides_write(schema.name(), schema.arguments()[i].name(), is_training) &&
         !(operand && operand->isNone());
}

/// True if values of a type are tensors or contain some.
inline bool holds_tensors(const c10::Type& type) {
  return type.kind() == c10::TypeKind::TensorType || type.kind() == c10::TypeKind::ClassType ||
         std::ranges::any_of(type.containedTypes(),
                             [](const c10::TypePtr& part) { return holds_tensors(*part); });
}

/// True if a value may share memory with a constant tensor, also by an operator that hides it.
/// \param seen the values that were visited; initially empty
inline bool shares_constant(const torch::jit::Value& value, std::set<const torch::jit::Value*>& seen) {
  if (!holds_tensors(*value.type()) || !seen.insert(&value).second) return false;
  const torch::jit::Node& node = *value.node();
  const bool is_changed_list = value.type()->kind() != c10::TypeKind::TensorType &&
                               std::ranges::any_of(value.uses(), [](const torch::jit::Use& use) {
                                 const c10::FunctionSchema* schema = use.user->maybeSchema();
                                 return schema && use.offset < schema->arguments().size() &&
                                        schema->arguments()[use.offset].alias_info() &&
                                        schema->arguments()[use.offset].alias_info()->isWrite();
                               });
  if (node.kind() == c10::prim::Constant || node.kind() == c10::prim::GetAttr || is_changed_list) return true;
  const auto shares = [&](const torch::jit::Value* other) { return shares_constant(*other, seen); };
  const auto any_of_blocks = [&](const torch::jit::Node& owner) {
    return std::ranges::any_of(owner.blocks(), [&](const torch::jit::Block* block) {
      return std::ranges::any_of(block->outputs(), shares);
    });
  };
  if (node.kind() == c10::prim::Param) {  // of a loop, or of the graph
    const torch::jit::Node* owner = node.owningBlock()->owningNode();
    return owner && (std::ranges::any_of(owner->inputs(), shares) || any_of_blocks(*owner));
  }
  if (any_of_blocks(node)) return true;
  const c10::FunctionSchema* schema = node.maybeSchema();
  for (std::size_t i = 0; i < node.inputs().size(); ++i) {
    const bool is_alias = !schema || i >= schema->arguments().size() || schema->arguments()[i].alias_info() ||
                          hides_alias(schema->name());
    if (is_alias && shares(node.input(i))) return true;
  }
  return false;
}

/// Returns what an argument of an operator is, or is if it is given.
inline c10::TypeKind kind_of(const c10::Argument& argument) {
  const auto optional = argument.real_type()->cast<c10::OptionalType>();
  return optional ? optional->getElementType()->kind() : argument.real_type()->kind();
}

/// True if an argument of an operator is a type of numbers.
inline bool is_type(const c10::Argument& argument) {
  return argument.name() == "dtype" || kind_of(argument) == c10::TypeKind::ScalarTypeType;
}

REFINE_INLINE ScriptedModule::ScriptedModule(const torch::jit::Module& source, std::string name)
    : torch::nn::Module("scripted"), name_(std::move(name)), unit_(source._ivalue()->compilation_unit()) {
  torch::jit::Module constant = source.deepcopy();  // copy() shares the tensors and the training mode
  constant.eval();
  for (const torch::jit::Module& part : constant.modules()) {
    for (const auto& attribute : part.named_attributes(/*recurse=*/false)) {
      if (attribute.value.isObject()) continue;
      if (attribute.value.isTensor() && attribute.value.toTensor().defined())
        mixes_types_ = mixes_types_ || is_converted(attribute.value.toTensor().scalar_type());
      part._ivalue()->setAttr(attribute.name, to_float32(attribute.value));
    }
  }
  constant = torch::jit::freeze_module(with_checked_operators(constant));
  graph_ = constant.get_method("forward").graph()->copy();
  writes_tensors_ = has_writes(*graph_->block());
  remove_gradient_barriers(*graph_->block());
  torch::jit::Inline(*graph_);  // the methods of context managers, which may stop gradients too
  writes_tensors_ = writes_tensors_ || has_writes(*graph_->block());
  remove_gradient_barriers(*graph_->block());
  eliminate_objects(*graph_->block());
  mixes_types_ = mixes_types_ || names_other_types(*graph_->block());
  use_float32(*graph_->block());
  if (writes_tensors_) {
    expand_tensor_lists(*graph_->block());
    copy_constants(*graph_->block());
  }
  torch::jit::OptimizeFrozenGraph(graph_);
  torch::jit::EliminateDeadCode(graph_);
  make_unary(constant);
  if (writes_tensors_) copy_images();
  check_output();
  expand_tensor_lists(*graph_->block());
  lift_constants(*graph_->block());
  follow_device(*graph_->block());
  torch::jit::EliminateDeadCode(graph_);
  rename_operators(*graph_->block(), /*checks=*/false);
  compile();
  eval();
}

REFINE_INLINE void ScriptedModule::compile() {
  // A copy, so that the graph that is exported uses LibTorch's operators only.
  const std::shared_ptr<torch::jit::Graph> compiled = graph_->copy();
  use_nn_convolutions(*compiled->block());
  rename_operators(*compiled->block(), /*checks=*/true);
  executor_ = torch::jit::GraphExecutor(compiled, name_, torch::jit::ExecutorExecutionMode::SIMPLE);
}

REFINE_INLINE at::Tensor ScriptedModule::forward(const at::Tensor& images) {
  const at::Tensor x = channels_last_ ? images : images.contiguous();
  if (torch::jit::tracer::isTracing()) return forward_traced(x);
  return run(x);
}

REFINE_INLINE std::string ScriptedModule::code() const {
  static const std::regex numbering("___torch_mangle_[0-9]+\\.");
  // The names of values differ between a module and the same module read from a file.
  const auto canonical = torch::jit::Canonicalize(graph_, /*keep_unique_names=*/false);
  return std::regex_replace(canonical->toString(/*print_source_locations=*/false), numbering, "");
}

REFINE_INLINE void ScriptedModule::use_channels_last(bool yes) {
  channels_last_ = yes;
  for (auto& buffer : buffers(/*recurse=*/false)) {
    if (buffer.dim() != 4) continue;
    buffer.set_data(buffer.contiguous(yes ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
  }
}

REFINE_INLINE std::shared_ptr<torch::nn::Module> ScriptedModule::clone(
    const std::optional<torch::Device>& device) const {
  auto copy = std::shared_ptr<ScriptedModule>(new ScriptedModule(*this, Copy{}));
  if (device) copy->to(*device);
  return copy;
}

REFINE_INLINE ScriptedModule::ScriptedModule(const ScriptedModule& other, Copy)
    : torch::nn::Module("scripted"),
      name_(other.name_),
      unit_(other.unit_),
      graph_(other.graph_),
      executor_(other.executor_),
      channels_last_(other.channels_last_),
      needs_selection_(other.needs_selection_) {
  for (const auto& item : other.named_buffers(/*recurse=*/false))
    register_buffer(item.key(), item.value().clone());
  eval();
}

REFINE_INLINE bool ScriptedModule::has_writes(const torch::jit::Block& block) {
  for (const torch::jit::Node* node : block.nodes()) {
    for (const torch::jit::Block* inner : node->blocks()) {
      if (has_writes(*inner)) return true;
    }
    const c10::FunctionSchema* schema = node->maybeSchema();
    if (!schema) continue;
    for (std::size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      const c10::Argument& argument = schema->arguments()[i];
      const bool is_announced = argument.alias_info() && argument.alias_info()->isWrite();
      if (argument.type()->isSubtypeOf(*c10::OptionalType::ofTensor()) &&
          (is_announced || hides_write(*node, i)))
        return true;
    }
  }
  return false;
}

REFINE_INLINE bool ScriptedModule::names_other_types(const torch::jit::Block& block) {
  for (const torch::jit::Node* node : block.nodes()) {
    for (const torch::jit::Block* inner : node->blocks()) {
      if (names_other_types(*inner)) return true;
    }
    const c10::FunctionSchema* schema = node->maybeSchema();
    if (!schema) continue;
    for (std::size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      if (!is_type(schema->arguments()[i])) continue;
      const auto value = torch::jit::toIValue(node->input(i));
      if (value && value->isInt() && is_converted(static_cast<at::ScalarType>(value->toInt()))) return true;
    }
  }
  return false;
}

// The schemas of operators do not show which tensors share the memory of the images (`aten::einsum`).
REFINE_INLINE void ScriptedModule::copy_images() {
  torch::jit::Value* const images = graph_->inputs().at(0);
  torch::jit::WithInsertPoint insert_point(*graph_->nodes().begin());
  torch::jit::Value* const copy = graph_->insert(c10::aten::clone, {images});
  images->replaceAllUsesAfterNodeWith(copy->node(), copy);
}

// LibTorch's freezing refuses changes of constants as far as the schemas of operators show them.
REFINE_INLINE void ScriptedModule::copy_constants(torch::jit::Block& block) {
  const auto copy = [&](torch::jit::Node& node, std::size_t i) {
    std::set<const torch::jit::Value*> seen;
    if (!node.input(i)->type()->isSubtypeOf(*c10::TensorType::get()) ||
        !shares_constant(*node.input(i), seen))
      return;
    const torch::jit::WithInsertPoint insert_point(&node);
    node.replaceInput(i, graph_->insert(c10::aten::clone, {node.input(i)}));
  };
  const std::vector<torch::jit::Node*> nodes(block.nodes().begin(), block.nodes().end());
  for (torch::jit::Node* node : nodes) {
    for (torch::jit::Block* inner : node->blocks()) copy_constants(*inner);
    const c10::FunctionSchema* schema = node->maybeSchema();
    if (!schema) continue;
    for (std::size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      if (!hides_alias(schema->name()) && !hides_write(*node, i)) continue;
      torch::jit::Node& list = *node->input(i)->node();
      copy(*node, i);
      if (list.kind() != c10::prim::ListConstruct) continue;
      for (std::size_t element = 0; element < list.inputs().size(); ++element) copy(list, element);
    }
  }
}

/// \throws Error always
[[noreturn]] REFINE_INLINE void throw_unusable(const std::string& name, const std::string& why) {
  throw Error("cannot use {} as a classifier: {}; export a module whose forward maps images to logits", name,
              why);
}

REFINE_INLINE void ScriptedModule::make_unary(const torch::jit::Module& constant) {
  const auto fail = [&](const std::string& why) { throw_unusable(name_, why); };
  const auto& arguments = constant.get_method("forward").function().getSchema().arguments();
  if (graph_->inputs().size() < 2) fail("its forward takes no images");
  inline_attributes(*graph_->block(), {{graph_->inputs().at(0), constant._ivalue()}});
  torch::jit::EliminateDeadCode(graph_);
  if (graph_->inputs().at(0)->hasUses()) {
    fail("it changes its own attributes while it runs, or calls something that LibTorch cannot inline");
  }
  for (std::size_t i = graph_->inputs().size() - 1; i > 1; --i) {
    if (!arguments.at(i).default_value()) {
      fail("its forward requires another argument, '" + arguments.at(i).name() + "'");
    }
    torch::jit::WithInsertPoint insert_point(*graph_->nodes().begin());
    graph_->inputs().at(i)->replaceAllUsesWith(graph_->insertConstant(*arguments.at(i).default_value()));
    graph_->eraseInput(i);
  }
  graph_->eraseInput(0);
  if (graph_->outputs().size() != 1) fail("its forward returns nothing");
}

REFINE_INLINE void ScriptedModule::check_output() {
  const c10::TypePtr type = graph_->outputs().at(0)->type();
  if (type->isSubtypeOf(*c10::TensorType::get())) return;
  switch (type->kind()) {
    case c10::TypeKind::TupleType:
    case c10::TypeKind::ListType:
    case c10::TypeKind::DictType:
    case c10::TypeKind::OptionalType:
      needs_selection_ = true;
      return;
    default:
      throw_unusable(name_, "its forward returns " + type->repr_str() + ", not a tensor");
  }
}

/// Appends every tensor in a value.
/// \param value a tensor, or containers that hold tensors
/// \param location name, path and types of the value
/// \param found the tensors that have been found, at most 1000
REFINE_INLINE void collect_outputs(const c10::IValue& value, const ScriptedModule::Output& location,
                                   std::vector<ScriptedModule::Output>& found) {
  constexpr std::size_t max_outputs = 1000;
  if (found.size() >= max_outputs) return;
  const auto descend = [&](const std::string& name, const c10::IValue& key, const c10::IValue& element) {
    ScriptedModule::Output child = location;
    child.name += (child.name.empty() ? "" : ".") + name;
    child.path.push_back(key);
    child.types.push_back(value.type());
    collect_outputs(element, child, found);
  };
  if (value.isTensor()) {
    if (!value.toTensor().defined()) return;
    found.push_back(location);
    found.back().value = value.toTensor();
  } else if (value.isTuple()) {
    const auto& elements = value.toTupleRef().elements();
    const auto& schema = value.toTupleRef().type()->schema();
    for (std::size_t i = 0; i < elements.size(); ++i) {
      const bool named = schema && i < schema->arguments().size();
      descend(named ? schema->arguments()[i].name() : std::to_string(i), static_cast<std::int64_t>(i),
              elements[i]);
    }
  } else if (value.isList()) {
    std::int64_t i = 0;
    for (const c10::IValue& element : value.toListRef()) {
      descend(std::to_string(i), i, element);
      ++i;
    }
  } else if (value.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) {
      const c10::IValue& key = item.key();
      if (key.isString()) descend(key.toStringRef(), key, item.value());
      if (key.isInt()) descend(std::to_string(key.toInt()), key, item.value());
    }
  }
}

REFINE_INLINE std::vector<ScriptedModule::Output> ScriptedModule::outputs(const at::Tensor& images) {
  std::vector<Output> found;
  collect_outputs(run_graph(channels_last_ ? images : images.contiguous()), {}, found);
  return found;
}

REFINE_INLINE void ScriptedModule::select_output(const Output& output) {
  graph_ = graph_->copy();
  torch::jit::WithInsertPoint insert_point(graph_->return_node());
  torch::jit::Value* value = graph_->outputs().at(0);
  const auto unwrap = [&](torch::jit::Value* maybe) {
    if (maybe->type()->kind() != c10::TypeKind::OptionalType) return maybe;
    return graph_->insert(c10::aten::_unwrap_optional, {maybe});
  };
  for (std::size_t i = 0; i < output.path.size(); ++i) {
    const c10::IValue& key = output.path[i];
    const c10::TypePtr& type = output.types[i];
    value = unwrap(value);
    if (type->kind() == c10::TypeKind::TupleType) {
      torch::jit::Node* unpack = graph_->insertNode(graph_->createTupleUnpack(value));
      value = unpack->outputs().at(static_cast<std::size_t>(key.toInt()));
    } else {
      value = graph_->insert(c10::aten::__getitem__, {value, graph_->insertConstant(key)});
    }
  }
  graph_->eraseOutput(0);
  graph_->registerOutput(unwrap(value));
  torch::jit::LowerSimpleTuples(graph_);
  torch::jit::EliminateDeadCode(graph_);
  needs_selection_ = false;
  compile();
}

REFINE_INLINE void ScriptedModule::remove_gradient_barriers(torch::jit::Block& block) {
  using torch::jit::Node;
  static const c10::Symbol set_grad_enabled = c10::Symbol::fromQualString("aten::set_grad_enabled"),
                           is_grad_enabled = c10::Symbol::fromQualString("aten::is_grad_enabled"),
                           requires_grad_ = c10::Symbol::fromQualString("aten::requires_grad_"),
                           detach_copy = c10::Symbol::fromQualString("aten::detach_copy"),
                           warn = c10::Symbol::fromQualString("aten::warn"),
                           data = c10::Symbol::fromQualString("prim::data");
  const auto is_library_context = [](const Node& node) {
    const auto type = node.input(0)->type()->cast<c10::ClassType>();
    if (!type || !type->name()) return false;
    const std::string name = type->name()->qualifiedName();
    return name.starts_with("__torch__.torch.") &&
           (name.find("grad_mode") != std::string::npos || name.find("autocast") != std::string::npos);
  };
  torch::jit::Graph& graph = *block.owningGraph();
  const std::vector<Node*> nodes(block.nodes().begin(), block.nodes().end());
  for (Node* node : nodes) {
    for (torch::jit::Block* inner : node->blocks()) remove_gradient_barriers(*inner);
    const c10::Symbol kind = node->kind();
    torch::jit::WithInsertPoint insert_point(node);
    if (kind == set_grad_enabled || kind == warn) {  // whose text would reach the terminal unescaped
      node->destroy();
    } else if (kind == is_grad_enabled) {  // false, as in inference
      node->output()->replaceAllUsesWith(graph.insertConstant(false));
      node->destroy();
    } else if (kind == detach_copy) {
      node->output()->replaceAllUsesWith(graph.insert(c10::aten::clone, {node->input(0)}));
      node->destroy();
    } else if (kind == c10::aten::detach || kind == c10::aten::detach_ || kind == requires_grad_ ||
               kind == data) {
      node->output()->replaceAllUsesWith(node->input(0));
      node->destroy();
    } else if (kind == c10::prim::Enter || kind == c10::prim::Exit) {
      if (is_library_context(*node)) {
        if (kind == c10::prim::Enter && node->output()->hasUses()) continue;
        if (kind == c10::prim::Exit) node->output()->replaceAllUsesWith(graph.insertConstant(c10::IValue()));
        node->destroy();
        continue;
      }
      const auto type = node->input(0)->type()->cast<c10::ClassType>();
      const char* const method = kind == c10::prim::Enter ? "__enter__" : "__exit__";
      const torch::jit::Function* function = type ? type->findMethod(method) : nullptr;
      if (!function) continue;
      std::vector<torch::jit::Value*> inputs = {node->input(0)};
      while (inputs.size() < function->getSchema().arguments().size()) {
        inputs.push_back(graph.insertConstant(c10::IValue()));
      }
      Node* call = graph.insertNode(graph.create(c10::prim::CallMethod, inputs));
      call->s_(c10::attr::name, method);
      call->output()->setType(function->getSchema().returns().at(0).type());
      node->output()->replaceAllUsesWith(call->output());
      node->destroy();
    }
  }
}

REFINE_INLINE void ScriptedModule::eliminate_objects(torch::jit::Block& block) {
  using torch::jit::Node;
  std::vector<Node*> objects;  // not all nodes: the ones that read and assign are destroyed with their object
  for (Node* node : block.nodes()) {
    for (torch::jit::Block* inner : node->blocks()) eliminate_objects(*inner);
    if (node->kind() == c10::prim::CreateObject) objects.push_back(node);
  }
  for (Node* object : objects) {
    std::vector<Node*> assignments, reads;
    bool simple = true;
    for (const torch::jit::Use& use : object->output()->uses()) {
      if (use.user->kind() == c10::prim::SetAttr && use.offset == 0 && use.user->owningBlock() == &block) {
        assignments.push_back(use.user);
      } else if (use.user->kind() == c10::prim::GetAttr) {
        reads.push_back(use.user);
      } else {
        simple = false;
      }
    }
    std::map<Node*, torch::jit::Value*> values;
    for (Node* read : reads) {
      Node* from = read;
      while (from->owningBlock() != &block) from = from->owningBlock()->owningNode();
      Node* last = nullptr;
      for (Node* assignment : assignments) {
        if (assignment->s(c10::attr::name) == read->s(c10::attr::name) && assignment->isBefore(from) &&
            (!last || last->isBefore(assignment))) {
          last = assignment;
        }
      }
      if (last) values[read] = last->input(1);
    }
    if (!simple || values.size() != reads.size()) continue;
    for (Node* read : reads) {
      torch::jit::Value* value = values.at(read);
      for (auto& [other, replaced] : values) {  // it may have been read from this one
        if (replaced == read->output()) replaced = value;
      }
      read->output()->replaceAllUsesWith(value);
      read->destroy();
    }
    for (Node* assignment : assignments) assignment->destroy();
    object->destroy();
  }
}

REFINE_INLINE void ScriptedModule::use_float32(torch::jit::Block& block) {
  using torch::jit::Node;
  static const c10::Symbol reduced = c10::Symbol::fromQualString("aten::_autocast_to_reduced_precision"),
                           full = c10::Symbol::fromQualString("aten::_autocast_to_full_precision");
  torch::jit::Graph& graph = *block.owningGraph();
  const std::vector<Node*> nodes(block.nodes().begin(), block.nodes().end());
  for (Node* node : nodes) {
    for (torch::jit::Block* inner : node->blocks()) use_float32(*inner);
    torch::jit::WithInsertPoint insert_point(node);
    if (node->kind() == c10::prim::Constant) {
      const auto value = torch::jit::toIValue(node->output());
      if (!value ||
          !(value->isTensor() || value->isTensorList() || value->isTuple() || value->isGenericDict())) {
        continue;
      }
      if (value->isTensor() &&
          !(value->toTensor().defined() && is_converted(value->toTensor().scalar_type()))) {
        continue;
      }
      if (const auto constant = torch::jit::tryInsertConstant(graph, to_float32(*value))) {
        node->output()->replaceAllUsesWith(*constant);
        node->destroy();
      }
      continue;
    }
    // Where the program converts between types, its tensors are copies, which a change in place must not share.
    const bool copies = writes_tensors_ && mixes_types_;
    if (node->kind() == reduced || node->kind() == full) {
      node->output()->replaceAllUsesWith(copies ? graph.insert(c10::aten::clone, {node->input(0)})
                                                : node->input(0));
      node->destroy();
      continue;
    }
    if (node->kind() == c10::aten::to && node->schema().overload_name().starts_with("prim_") &&
        is_none(*node, "dtype") &&
        (!node->schema().argumentIndexWithName("device") || is_none(*node, "device"))) {
      node->output()->replaceAllUsesWith(node->input(0));  // LibTorch converts to what is not there
      node->destroy();
      continue;
    }
    if (copies && (node->kind() == c10::aten::to || node->kind() == c10::aten::type_as)) {
      const torch::jit::WithInsertPoint behind(node->next());
      torch::jit::Value* const copy = graph.insert(c10::aten::clone, {node->output()});
      node->output()->replaceAllUsesAfterNodeWith(copy->node(), copy);
    }
    const c10::FunctionSchema* schema = node->maybeSchema();
    if (!schema) continue;
    for (std::size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      if (!is_type(schema->arguments()[i])) continue;
      const auto value = torch::jit::toIValue(node->input(i));
      if (value && value->isInt() && is_converted(static_cast<at::ScalarType>(value->toInt()))) {
        node->replaceInput(i, graph.insertConstant(static_cast<std::int64_t>(at::kFloat)));
      }
    }
  }
}

REFINE_INLINE void ScriptedModule::inline_attributes(torch::jit::Block& block, Objects objects) {
  for (torch::jit::Node* node : block.nodes()) {
    if (node->kind() == c10::prim::GetAttr && objects.contains(node->input())) {
      const c10::IValue value = objects.at(node->input())->getAttr(node->s(c10::attr::name));
      if (value.isObject()) {
        objects[node->output()] = value.toObject();
        continue;
      }
      torch::jit::WithInsertPoint insert_point(node);
      const auto constant = torch::jit::tryInsertConstant(
          *graph_, value.isTensor() ? c10::IValue(value.toTensor().detach()) : value);
      if (constant) node->output()->replaceAllUsesWith(*constant);
    }
    for (torch::jit::Block* inner : node->blocks()) inline_attributes(*inner, objects);
  }
}

REFINE_INLINE void ScriptedModule::expand_tensor_lists(torch::jit::Block& block) {
  torch::jit::Graph& graph = *block.owningGraph();
  const std::vector<torch::jit::Node*> nodes(block.nodes().begin(), block.nodes().end());
  for (torch::jit::Node* node : nodes) {
    for (torch::jit::Block* inner : node->blocks()) expand_tensor_lists(*inner);
    if (node->kind() != c10::prim::Constant) continue;
    const auto type = node->output()->type()->cast<c10::ListType>();
    if (!type) continue;
    c10::TypePtr element = type->getElementType();
    if (const auto optional = element->cast<c10::OptionalType>()) element = optional->getElementType();
    if (!element->isSubtypeOf(*c10::TensorType::get())) continue;
    torch::jit::WithInsertPoint insert_point(node);
    std::vector<torch::jit::Value*> values;
    for (const c10::IValue& value : torch::jit::toIValue(node->output())->toListRef()) {
      values.push_back(graph.insertConstant(value));
    }
    torch::jit::Node* list = graph.insertNode(graph.createList(type->getElementType(), values));
    node->output()->replaceAllUsesWith(list->output());
    node->destroy();
  }
}

REFINE_INLINE void ScriptedModule::lift_constants(torch::jit::Block& block) {
  std::vector<torch::jit::Node*> constants;
  for (torch::jit::Node* node : block.nodes()) {
    for (torch::jit::Block* inner : node->blocks()) lift_constants(*inner);
    if (node->kind() == c10::prim::Constant && node->outputs().size() == 1 &&
        node->output()->type()->isSubtypeOf(*c10::TensorType::get()) &&
        node->hasAttribute(c10::attr::value)) {
      constants.push_back(node);
    }
  }
  for (torch::jit::Node* node : constants) {
    // A copy without the file's memory and without gradients, which no weight needs.
    const at::Tensor tensor = node->t(c10::attr::value).detach().cpu().clone();
    register_buffer("constant_" + std::to_string(graph_->inputs().size() - 1), tensor);
    torch::jit::Value* input = graph_->addInput();
    input->setType(c10::TensorType::get());
    node->output()->replaceAllUsesWith(input);
    node->destroy();
  }
}

REFINE_INLINE void ScriptedModule::follow_device(torch::jit::Block& block) {
  static const c10::Symbol cuda = c10::Symbol::fromQualString("aten::cuda"),
                           cpu = c10::Symbol::fromQualString("aten::cpu");
  std::vector<torch::jit::Node*> named, moves;
  for (torch::jit::Node* node : block.nodes()) {
    for (torch::jit::Block* inner : node->blocks()) follow_device(*inner);
    if (node->kind() == c10::prim::Constant && node->outputs().size() == 1 &&
        node->output()->type()->kind() == c10::TypeKind::DeviceObjType) {
      named.push_back(node);
    }
    if (node->kind() == cuda || node->kind() == cpu) moves.push_back(node);
  }
  const auto insert_device = [&] {
    torch::jit::Node* device =
        graph_->insertNode(graph_->create(c10::prim::device, {graph_->inputs().at(0)}));
    device->output()->setType(c10::DeviceObjType::get());
    return device->output();
  };
  for (torch::jit::Node* node : named) {
    torch::jit::WithInsertPoint insert_point(node);
    node->output()->replaceAllUsesWith(insert_device());
    node->destroy();
  }
  for (torch::jit::Node* node : moves) {
    torch::jit::WithInsertPoint insert_point(node);
    torch::jit::Value* const none = graph_->insertConstant(c10::IValue());
    torch::jit::Value* const no = graph_->insertConstant(false);
    torch::jit::Value* moved = graph_->insert(c10::aten::to, {node->input(0), insert_device(), none, no, no});
    node->output()->replaceAllUsesWith(moved);
    node->destroy();
  }
}

REFINE_INLINE void ScriptedModule::use_nn_convolutions(torch::jit::Block& block) {
  static const c10::Symbol core = c10::Symbol::fromQualString("aten::convolution");
  const auto constant = [](const torch::jit::Node& node, const char* name) {
    return torch::jit::toIValue(node.namedInput(name)).value_or(c10::IValue());
  };
  const auto is = [&](const torch::jit::Node& node, const char* name, std::int64_t value) {
    const c10::IValue given = constant(node, name);
    return given.isIntList() && given.toIntVector() == std::vector<std::int64_t>{value, value};
  };
  const std::vector<torch::jit::Node*> nodes(block.nodes().begin(), block.nodes().end());
  for (torch::jit::Node* node : nodes) {
    for (torch::jit::Block* inner : node->blocks()) use_nn_convolutions(*inner);
    const bool is_scripted = node->kind() == c10::aten::conv2d;
    if (!is_scripted && node->kind() != c10::aten::_convolution && node->kind() != core) continue;
    const bool is_same_3x3 = is(*node, "stride", 1) && is(*node, "padding", 1) && is(*node, "dilation", 1) &&
                             constant(*node, "groups") == c10::IValue(1) &&
                             (is_scripted || constant(*node, "transposed") == c10::IValue(false));
    if (!is_same_3x3 && is_scripted) continue;
    // The operators of traced networks begin with the nine arguments of `aten::convolution`.
    torch::jit::Node* replacement =
        block.owningGraph()->create(is_same_3x3 ? convolution_symbols().same_3x3 : convolution_symbols().any,
                                    node->inputs().slice(0, is_same_3x3 ? 3 : 9));
    replacement->insertBefore(node);
    replacement->copyMetadata(node);  // its place in the source, for messages
    replacement->output()->setType(c10::TensorType::get());
    node->output()->replaceAllUsesWith(replacement->output());
    node->destroy();
  }
}

/// True if a block has a node of one of these kinds.
inline bool has_node(const torch::jit::Block& block, const std::map<c10::Symbol, c10::Symbol>& kinds) {
  return std::ranges::any_of(block.nodes(), [&](const torch::jit::Node* node) {
    return kinds.contains(node->kind()) ||
           std::ranges::any_of(node->blocks(),
                               [&](const torch::jit::Block* inner) { return has_node(*inner, kinds); });
  });
}

/// Returns a module or a value in it, given as in `self.part.number`; nothing if it is computed.
/// \param forward the method in whose graph the value is
inline std::optional<c10::IValue> attribute_of(const torch::jit::Value& value,
                                               const torch::jit::Method& forward) {
  const torch::jit::Node& node = *value.node();
  const bool is_argument = node.kind() == c10::prim::Param && node.owningBlock()->owningNode() == nullptr;
  if (is_argument && value.offset() == 0) return forward.owner()._ivalue();
  if (is_argument) return forward.function().getSchema().arguments().at(value.offset()).default_value();
  if (node.kind() != c10::prim::GetAttr) return torch::jit::toIValue(&value);
  const auto owner = attribute_of(*node.input(), forward);
  if (!owner || !owner->isObject()) return std::nullopt;
  return owner->toObject()->getAttr(node.s(c10::attr::name));
}

/// True if a value is a number of an enumeration, or None, whatever the images are.
/// \param count of the enumeration's numbers, from 0
/// \param of_types whether it is that of types, which `x.dtype` is of
inline bool is_enumerator(const torch::jit::Value& value, std::int64_t count, bool of_types,
                          const torch::jit::Method& forward) {
  const torch::jit::Node& node = *value.node();
  const auto also = [&](const torch::jit::Value* other) {
    return is_enumerator(*other, count, of_types, forward);
  };
  if (node.kind() == c10::prim::dtype) return of_types;
  if (node.kind() == c10::prim::unchecked_unwrap_optional || node.kind() == c10::aten::_unwrap_optional)
    return also(node.input());
  if (node.kind() == c10::prim::If) {
    return std::ranges::all_of(node.blocks(), [&](const torch::jit::Block* branch) {
      return also(branch->outputs().at(value.offset()));
    });
  }
  const auto number = attribute_of(value, forward);
  return number && (number->isNone() || (number->isInt() && number->toInt() >= 0 && number->toInt() < count));
}

/// Refuses numbers for types and memory formats that LibTorch does not have: it reads beyond its tables with them.
inline void check_enumerators(const torch::jit::Block& block, const torch::jit::Method& forward) {
  for (const torch::jit::Node* node : block.nodes()) {
    for (const torch::jit::Block* inner : node->blocks()) check_enumerators(*inner, forward);
    const c10::FunctionSchema* schema = node->maybeSchema();
    for (std::size_t i = 0; schema && i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      const c10::Argument& argument = schema->arguments()[i];
      const bool of_types = is_type(argument);
      if (!of_types && kind_of(argument) != c10::TypeKind::MemoryFormatType) continue;
      const auto count = of_types ? static_cast<std::int64_t>(c10::ScalarType::NumOptions)
                                  : static_cast<std::int64_t>(c10::MemoryFormat::NumOptions);
      if (is_enumerator(*node->input(i), count, of_types, forward)) continue;
      throw Error("cannot use a program that gives {} a {} which LibTorch does not have, or computes it",
                  schema->name(), argument.name());
    }
  }
}

REFINE_INLINE torch::jit::Module ScriptedModule::with_checked_operators(const torch::jit::Module& module) {
  const torch::jit::Method forward = module.get_method("forward");
  const std::shared_ptr<torch::jit::Graph> whole = forward.graph()->copy();
  torch::jit::Inline(*whole);
  check_enumerators(*whole->block(), forward);
  if (!has_node(*whole->block(), checking_symbols())) return module;
  torch::jit::Module changed = module.clone();
  const std::shared_ptr<torch::jit::Graph> graph = changed.get_method("forward").graph();
  torch::jit::Inline(*graph);
  rename_operators(*graph->block(), /*checks=*/true);
  return changed;
}

REFINE_INLINE const std::map<c10::Symbol, c10::Symbol>& ScriptedModule::checking_symbols() {
  static const std::map<c10::Symbol, c10::Symbol> symbols = [] {
    std::map<c10::Symbol, c10::Symbol> all;
    for (const char* name : checked_operators) {
      const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
      const std::string checking = "refine" + op.schema().name().substr(std::string_view("aten").size());
      const torch::jit::Operation call = [op](torch::jit::Stack& stack) {
        const std::size_t count = op.schema().arguments().size();
        check_arguments(op.operator_name(), at::ArrayRef<c10::IValue>(stack).slice(stack.size() - count));
        op.callBoxed(stack);
      };
      torch::jit::registerOperator(torch::jit::Operator(checking, "", op.schema().arguments(),
                                                        op.schema().returns(), call,
                                                        c10::AliasAnalysisKind::FROM_SCHEMA));
      all.emplace(c10::Symbol::fromQualString(name), c10::Symbol::fromQualString(checking));
    }
    return all;
  }();
  return symbols;
}

REFINE_INLINE void ScriptedModule::rename_operators(torch::jit::Block& block, bool checks) {
  const std::vector<torch::jit::Node*> nodes(block.nodes().begin(), block.nodes().end());
  for (torch::jit::Node* node : nodes) {
    for (torch::jit::Block* inner : node->blocks()) rename_operators(*inner, checks);
    if (const c10::FunctionSchema* schema = node->maybeSchema()) {
      if (std::ranges::any_of(schema->arguments(), &c10::Argument::is_out)) {
        throw Error(
            "cannot use a program that writes its results into given tensors ({}); export it without out=",
            schema->name());
      }
      if (!schema->overload_name().empty()) continue;
    }
    for (const auto& [plain, checking] : checking_symbols()) {
      if (node->kind() != (checks ? plain : checking)) continue;
      torch::jit::Node* replacement =
          block.owningGraph()->create(checks ? checking : plain, node->inputs(), node->outputs().size());
      replacement->insertBefore(node);
      replacement->copyMetadata(node);  // its place in the source, for messages
      for (torch::jit::Value* output : replacement->outputs()) output->setType(c10::TensorType::get());
      node->replaceAllUsesWith(replacement);
      node->destroy();
      break;
    }
  }
}

REFINE_INLINE const ScriptedModule::ConvolutionSymbols& ScriptedModule::convolution_symbols() {
  static const ConvolutionSymbols symbols = {c10::Symbol::fromQualString("refine::convolution_3x3"),
                                             c10::Symbol::fromQualString("refine::convolution")};
  static const auto defined = [](const c10::IValue& value) {
    return value.isNone() ? at::Tensor() : value.toTensor();
  };
  static const torch::jit::RegisterOperators registration(
      {torch::jit::Operator(
           "refine::convolution_3x3(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
           [](torch::jit::Stack& stack) {
             const auto in = torch::jit::pop(stack, 3);
             stack.emplace_back(nn::convolve(in[0].toTensor(), in[1].toTensor(), defined(in[2])));
           },
           c10::AliasAnalysisKind::FROM_SCHEMA),
       torch::jit::Operator(
           "refine::convolution(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, "
           "bool transposed, int[] output_padding, int groups) -> Tensor",
           [](torch::jit::Stack& stack) {
             const auto in = torch::jit::pop(stack, 9);
             stack.emplace_back(nn::convolve(in[0].toTensor(), in[1].toTensor(), defined(in[2]),
                                             {.stride = in[3].toIntVector(),
                                              .padding = in[4].toIntVector(),
                                              .dilation = in[5].toIntVector(),
                                              .transposed = in[6].toBool(),
                                              .output_padding = in[7].toIntVector(),
                                              .groups = in[8].toInt()}));
           },
           c10::AliasAnalysisKind::FROM_SCHEMA)});
  return symbols;
}

REFINE_INLINE c10::IValue ScriptedModule::run_graph(const at::Tensor& images) {
  torch::jit::Stack stack = {images};
  for (const auto& buffer : buffers(/*recurse=*/false)) stack.emplace_back(buffer);
  executor_.run(stack);
  return stack.at(0);
}

REFINE_INLINE at::Tensor ScriptedModule::run(const at::Tensor& images) {
  return run_graph(images).toTensor();
}

REFINE_INLINE at::Tensor ScriptedModule::forward_traced(const at::Tensor& images) {
  namespace tracer = torch::jit::tracer;
  std::vector<torch::jit::Value*> inputs = {tracer::getValueTrace(images)};
  for (const auto& buffer : buffers(/*recurse=*/false)) inputs.push_back(tracer::getValueTrace(buffer));
  torch::jit::Graph& outer = *tracer::getTracingState()->graph;
  torch::jit::Value* result = torch::jit::insertGraph(outer, *graph_, inputs).at(0);
  const auto resume = tracer::pauseTracing();
  at::Tensor output;
  try {
    output = run(images);
  } catch (...) {
    resume();
    throw;
  }
  resume();
  tracer::setValueTrace(output, result);
  return output;
}

}  // namespace refine::backbones::detail
