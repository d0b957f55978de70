#pragma once

// What scripted_module.hpp declares.

#include <refine/backbones/scripted_module.hpp>

#include <c10/core/MemoryFormat.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/lower_tuples.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/nn/convolve.hpp>

namespace refine::backbones::detail {

REFINE_DEFINITION ScriptedModule::ScriptedModule(const torch::jit::Module& source, std::string name)
    : torch::nn::Module("scripted") {
  torch::jit::Module constant = source.copy();
  constant.eval();
  constant.to(at::kFloat);  // of half or double precision: images come as float
  constant = torch::jit::freeze(constant);
  graph_ = constant.get_method("forward").graph()->copy();
  torch::jit::EliminateDeadCode(graph_);
  make_unary(constant, name);
  take_out_tensors(*graph_->block());
  follow_device(*graph_->block());
  torch::jit::EliminateDeadCode(graph_);
  const std::shared_ptr<torch::jit::Graph> runs = graph_->copy();  // what is exported stays LibTorch's own
  use_own_convolutions(*runs->block());
  executor_ = torch::jit::GraphExecutor(runs, std::move(name), torch::jit::ExecutorExecutionMode::SIMPLE);
  eval();
}

REFINE_DEFINITION at::Tensor ScriptedModule::forward(const at::Tensor& images) {
  const at::Tensor laid_out = channels_last_ ? images : images.contiguous();
  if (torch::jit::tracer::isTracing()) return forward_traced(laid_out);
  return run(laid_out);
}

REFINE_DEFINITION void ScriptedModule::use_channels_last(bool yes) {
  channels_last_ = yes;
  for (auto& buffer : buffers(/*recurse=*/false)) {
    if (buffer.dim() != 4) continue;
    buffer.set_data(buffer.contiguous(yes ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
  }
}

REFINE_DEFINITION std::shared_ptr<torch::nn::Module> ScriptedModule::clone(
    const std::optional<torch::Device>& device) const {
  auto copy = std::shared_ptr<ScriptedModule>(new ScriptedModule(*this, Copy{}));
  if (device) copy->to(*device);
  return copy;
}

REFINE_DEFINITION ScriptedModule::ScriptedModule(const ScriptedModule& other, Copy)
    : torch::nn::Module("scripted"),
      graph_(other.graph_),
      executor_(other.executor_),
      channels_last_(other.channels_last_) {
  for (const auto& item : other.named_buffers(/*recurse=*/false))
    register_buffer(item.key(), item.value().clone());
  eval();
}

REFINE_DEFINITION void ScriptedModule::make_unary(const torch::jit::Module& constant,
                                                  const std::string& name) {
  const auto refuse = [&](const std::string& why) {
    throw Error("cannot use {} as a classifier: {}; export a module whose forward maps images to logits",
                name, why);
  };
  const auto& arguments = constant.get_method("forward").function().getSchema().arguments();
  if (graph_->inputs().size() < 2) refuse("its forward takes no images");
  resolve(*graph_->block(), {{graph_->inputs().at(0), constant._ivalue()}});
  torch::jit::EliminateDeadCode(graph_);
  if (graph_->inputs().at(0)->hasUses()) {
    refuse("it changes its own attributes while it runs, or calls what LibTorch can't inline");
  }
  for (std::size_t i = graph_->inputs().size() - 1; i > 1; --i) {
    if (!arguments.at(i).default_value()) {
      refuse("its forward also wants '" + arguments.at(i).name() + "'");
    }
    torch::jit::WithInsertPoint at(*graph_->nodes().begin());
    graph_->inputs().at(i)->replaceAllUsesWith(graph_->insertConstant(*arguments.at(i).default_value()));
    graph_->eraseInput(i);
  }
  graph_->eraseInput(0);
  if (graph_->outputs().size() != 1) refuse("its forward returns nothing");
  torch::jit::Value* output = graph_->outputs().at(0);
  if (output->type()->kind() == c10::TypeKind::TupleType) {
    torch::jit::Node* unpack = graph_->createTupleUnpack(output)->insertBefore(graph_->return_node());
    graph_->eraseOutput(0);
    graph_->registerOutput(unpack->outputs().at(0));
    torch::jit::LowerSimpleTuples(graph_);
    output = graph_->outputs().at(0);
  }
  if (!output->type()->isSubtypeOf(*c10::TensorType::get())) {
    refuse("its forward returns " + output->type()->repr_str() + ", not a tensor");
  }
}

REFINE_DEFINITION void ScriptedModule::resolve(torch::jit::Block& block, Objects known) {
  for (torch::jit::Node* node : block.nodes()) {
    if (node->kind() == c10::prim::GetAttr && known.contains(node->input())) {
      const c10::IValue value = known.at(node->input())->getAttr(node->s(c10::attr::name));
      if (value.isObject()) {
        known[node->output()] = value.toObject();
        continue;
      }
      torch::jit::WithInsertPoint at(node);
      const auto constant = torch::jit::tryInsertConstant(
          *graph_, value.isTensor() ? c10::IValue(value.toTensor().detach()) : value);
      if (constant) node->output()->replaceAllUsesWith(*constant);
    }
    for (torch::jit::Block* inner : node->blocks()) resolve(*inner, known);
  }
}

REFINE_DEFINITION void ScriptedModule::take_out_tensors(torch::jit::Block& block) {
  std::vector<torch::jit::Node*> constants;
  for (torch::jit::Node* node : block.nodes()) {
    for (torch::jit::Block* inner : node->blocks()) take_out_tensors(*inner);
    if (node->kind() == c10::prim::Constant && node->outputs().size() == 1 &&
        node->output()->type()->isSubtypeOf(*c10::TensorType::get()) &&
        node->hasAttribute(c10::attr::value)) {
      constants.push_back(node);
    }
  }
  for (torch::jit::Node* node : constants) {
    // Not the file's own memory, and no gradient of a weight is ever asked for.
    const at::Tensor tensor = node->t(c10::attr::value).detach().clone();
    register_buffer("constant_" + std::to_string(graph_->inputs().size() - 1), tensor);
    torch::jit::Value* input = graph_->addInput();
    input->setType(c10::TensorType::get());
    node->output()->replaceAllUsesWith(input);
    node->destroy();
  }
}

REFINE_DEFINITION void ScriptedModule::follow_device(torch::jit::Block& block) {
  std::vector<torch::jit::Node*> named;
  for (torch::jit::Node* node : block.nodes()) {
    for (torch::jit::Block* inner : node->blocks()) follow_device(*inner);
    if (node->kind() == c10::prim::Constant && node->outputs().size() == 1 &&
        node->output()->type()->kind() == c10::TypeKind::DeviceObjType) {
      named.push_back(node);
    }
  }
  for (torch::jit::Node* node : named) {
    torch::jit::WithInsertPoint at(node);
    torch::jit::Node* own = graph_->insertNode(graph_->create(c10::prim::device, {graph_->inputs().at(0)}));
    own->output()->setType(c10::DeviceObjType::get());
    node->output()->replaceAllUsesWith(own->output());
    node->destroy();
  }
}

REFINE_DEFINITION void ScriptedModule::use_own_convolutions(torch::jit::Block& block) {
  const c10::Symbol own = own_convolution();
  const auto constant = [](const torch::jit::Node& node, const char* name) {
    return torch::jit::toIValue(node.namedInput(name)).value_or(c10::IValue());
  };
  const auto is = [&](const torch::jit::Node& node, const char* name, std::int64_t value) {
    const c10::IValue said = constant(node, name);
    return said.isIntList() && said.toIntVector() == std::vector<std::int64_t>{value, value};
  };
  std::vector<torch::jit::Node*> found;
  for (torch::jit::Node* node : block.nodes()) {
    for (torch::jit::Block* inner : node->blocks()) use_own_convolutions(*inner);
    const bool scripted = node->kind() == c10::aten::conv2d;
    if (!scripted && node->kind() != c10::aten::_convolution) continue;
    if (is(*node, "stride", 1) && is(*node, "padding", 1) && is(*node, "dilation", 1) &&
        constant(*node, "groups") == c10::IValue(1) &&
        (scripted || constant(*node, "transposed") == c10::IValue(false))) {
      found.push_back(node);
    }
  }
  for (torch::jit::Node* node : found) {
    torch::jit::Node* mine = block.owningGraph()->create(
        own, {node->namedInput("input"), node->namedInput("weight"), node->namedInput("bias")});
    mine->insertBefore(node);
    mine->copyMetadata(node);  // where in the file it is, for messages
    mine->output()->setType(c10::TensorType::get());
    node->output()->replaceAllUsesWith(mine->output());
    node->destroy();
  }
}

REFINE_DEFINITION c10::Symbol ScriptedModule::own_convolution() {
  static const c10::Symbol name = c10::Symbol::fromQualString("refine::convolution");
  static const torch::jit::RegisterOperators once({torch::jit::Operator(
      "refine::convolution(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
      [](torch::jit::Stack& stack) {
        const c10::IValue bias = torch::jit::pop(stack);
        const at::Tensor weight = torch::jit::pop(stack).toTensor(), x = torch::jit::pop(stack).toTensor();
        stack.emplace_back(nn::convolve(x, weight, bias.isNone() ? at::Tensor() : bias.toTensor()));
      },
      c10::AliasAnalysisKind::FROM_SCHEMA)});
  return name;
}

REFINE_DEFINITION at::Tensor ScriptedModule::run(const at::Tensor& images) {
  torch::jit::Stack stack = {images};
  for (const auto& buffer : buffers(/*recurse=*/false)) stack.emplace_back(buffer);
  executor_.run(stack);
  return stack.at(0).toTensor();
}

REFINE_DEFINITION at::Tensor ScriptedModule::forward_traced(const at::Tensor& images) {
  namespace tracer = torch::jit::tracer;
  std::vector<torch::jit::Value*> inputs = {tracer::getValueTrace(images)};
  for (const auto& buffer : buffers(/*recurse=*/false)) inputs.push_back(tracer::getValueTrace(buffer));
  torch::jit::Graph& outer = *tracer::getTracingState()->graph;
  torch::jit::Value* result = torch::jit::insertGraph(outer, *graph_, inputs).at(0);
  const auto resume = tracer::pauseTracing();
  at::Tensor answer;
  try {
    answer = run(images);
  } catch (...) {
    resume();
    throw;
  }
  resume();
  tracer::setValueTrace(answer, result);
  return answer;
}

}  // namespace refine::backbones::detail
