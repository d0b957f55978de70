#pragma once

#include <refine/export/exported_classifier.hpp>

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/detail/untrusted_json.hpp>
#include <refine/core/error.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/nn/device.hpp>
#include <refine/programs/detail/exported_module.hpp>

namespace refine::detail {

/// \throws Error always
/// \param file name of the file
/// \param why it is not a defended classifier
[[noreturn]] inline void refuse_exported(const std::string& file, const std::string& why) {
  throw Error(
      "cannot use {} as a defended classifier: {}; make it with export_defense, refine defend or refine export",
      file, why);
}

/// A file of `export_torchscript`: each function is a method.
class ServedTorchScript : public ServedProgram {
 public:
  /// \param answer the method that `forward` runs
  ServedTorchScript(torch::jit::Module module, const std::string& answer, const std::string& file)
      : module_(std::move(module)), methods_{answer, "transform", "undefended", "alarm"} {
    module_.eval();
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      const auto method = module_.find_method(methods_[i]);
      if (!method) refuse_exported(file, "it has no method '" + methods_[i] + "'");
      // The simple interpreter: the default one profiles during its first calls.
      executors_[i] =
          torch::jit::GraphExecutor(method->graph(), methods_[i], torch::jit::ExecutorExecutionMode::SIMPLE);
    }
  }

  std::string name_of(Function function) const override { return "method '" + methods_[function] + "'"; }

  at::Tensor run(Function function, const at::Tensor& images) const override {
    c10::NoGradGuard no_grad;
    torch::jit::Stack stack = {module_._ivalue(), images};
    executors_[function].run(stack);
    return stack.at(0).toTensor();
  }

  std::optional<at::Device> device() const override {
    for (const at::Tensor& parameter : module_.parameters()) return parameter.device();
    for (const at::Tensor& buffer : module_.buffers()) return buffer.device();
    return std::nullopt;
  }

  void to(at::Device device) override { module_.to(device); }

 private:
  torch::jit::Module module_;
  std::array<std::string, functions> methods_;
  mutable std::array<torch::jit::GraphExecutor, functions> executors_;
};

/// A file of `export_pt2`: each function is an output of the program `details`.
class ServedPt2 : public ServedProgram {
 public:
  ServedPt2(formats::ExportedProgram program, Answer answer, const std::string& file)
      : outputs_{answer == Answer::gated ? "gated" : "logits", "transformed", "undefended", "alarm"} {
    const backbones::detail::ExportedModule all(std::move(program), file);
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      std::size_t position = 0;
      while (position < all.outputs().size() && all.outputs()[position].name != outputs_[i]) ++position;
      if (position == all.outputs().size()) {
        refuse_exported(file, fmt::format("its program '{}' has no output '{}'", details, outputs_[i]));
      }
      modules_[i] = all.with_output(position);
    }
  }

  static constexpr const char* details = "details";

  std::string name_of(Function function) const override {
    return std::string("output '") + outputs_[function] + "'";
  }

  at::Tensor run(Function function, const at::Tensor& images) const override {
    c10::NoGradGuard no_grad;
    return modules_[function]->forward(images);
  }

  std::optional<at::Device> device() const override {
    for (const auto& module : modules_) {
      if (const auto device = nn::device_of(*module)) return device;
    }
    return std::nullopt;
  }

  void to(at::Device device) override {
    for (const auto& module : modules_) module->to(device);
  }

 private:
  std::array<const char*, functions> outputs_;
  std::array<std::shared_ptr<backbones::detail::ExportedModule>, functions> modules_;  // share tensors
};

REFINE_INLINE ExportedFacts exported_facts(const nlohmann::ordered_json& about, const std::string& file) {
  constexpr std::int64_t largest_image = std::int64_t{1} << 26;  // pixels × channels
  const auto refuse = [&](const std::string& why) { refuse_exported(file, why); };
  const auto is_positive = [](const nlohmann::ordered_json& value) {
    if (!value.is_number_unsigned()) return false;
    const auto number = value.get<std::uint64_t>();
    return number > 0 && number < (1 << 20);
  };
  if (!about.is_object() || !about.contains("image") || !about["image"].is_array() ||
      about["image"].size() != 3 || !about.contains("classes") || !is_positive(about["classes"]) ||
      !is_positive(about["image"][0]) || !is_positive(about["image"][1]) || !is_positive(about["image"][2])) {
    refuse("its refine.json lacks a valid image and classes");
  }
  ExportedFacts facts{.task = {{about["image"][0], about["image"][1], about["image"][2]}, about["classes"]}};
  const auto& [channels, height, width] = facts.task.image;
  if (std::int64_t{channels} * height * width > largest_image) {
    refuse(fmt::format("the image in its refine.json is too large (got {}x{}x{}, expected up to {} values)",
                       channels, height, width, largest_image));
  }
  if (const auto word = about.find("answer"); word != about.end()) {
    facts.answer = word->is_string() ? parse_answer(word->get<std::string>()) : std::nullopt;
    if (!facts.answer) refuse("its refine.json has another answer than 'defended' or 'gated'");
  }
  return facts;
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE ExportedClassifier::ExportedClassifier(const std::filesystem::path& path, formats::Trust trust,
                                                     std::optional<Answer> answer) {
  const std::string name = path.string();
  const auto refuse = [&](const std::string& why) { detail::refuse_exported(name, why); };
  if (formats::is_onnx_file(path)) {
    refuse("it is an ONNX file, which ONNX Runtime serves; write the same defense as a .pt2");
  }
  const bool is_pt2 = formats::is_exported_program_file(path);
  std::map<std::string, std::string> extra;
  formats::ExportedProgram program;
  torch::jit::Module module;
  if (is_pt2) {
    program = formats::read_exported_program(path, trust, detail::ServedPt2::details);
    extra = std::move(program.extra);
  } else {
    formats::TorchScriptFile file = formats::load_torchscript(path, trust);
    module = std::move(file.module);
    extra = std::move(file.listing.extra);
  }
  const auto found = extra.find("refine.json");
  if (found == extra.end()) refuse("it has no refine.json inside");
  about_ = std::make_shared<const nlohmann::ordered_json>(
      detail::parse_untrusted_json<nlohmann::ordered_json>(found->second));
  const auto [task, stored] = detail::exported_facts(*about_, name);
  task_ = task;
  answer_ = answer.value_or(stored.value_or(Answer::defended));
  if (!stored && answer_ == Answer::gated) {
    throw Error(
        "cannot serve the gated answer of {}: the file has the defended one only; write it again with refine "
        "export --answer gated",
        name);
  }
  if (is_pt2) {
    program_ = std::make_shared<detail::ServedPt2>(std::move(program), answer_, name);
  } else {
    const bool is_chosen = stored && answer;  // `forward` may return the other answer
    program_ = std::make_shared<detail::ServedTorchScript>(
        std::move(module), is_chosen ? std::string(to_text(answer_)) : "forward", name);
  }
  if (const std::string why = problem(); !why.empty()) refuse(why);
}

REFINE_INLINE std::string ExportedClassifier::problem() const {
  const auto& [channels, height, width] = task_.image;
  const at::Tensor images = at::zeros({2, channels, height, width});
  constexpr std::int64_t any = -1;  // a transform may draw images of another size
  const auto fits = [](at::IntArrayRef sizes, const std::vector<std::int64_t>& wanted) {
    return std::ranges::equal(sizes, wanted,
                              [](std::int64_t a, std::int64_t b) { return b == any ? a > 0 : a == b; });
  };
  const std::map<Program::Function, std::vector<std::int64_t>> expected = {
      {Program::forward, {2, task_.classes}},
      {Program::transformed, {2, channels, any, any}},
      {Program::undefended, {2, task_.classes}},
      {Program::alarm, {2}}};
  for (const auto& [function, sizes] : expected) {
    std::string why;
    try {
      if (fits(program_->run(function, images).sizes(), sizes)) continue;
      why = "returns another shape than its refine.json promises";
    } catch (const std::exception& error) {
      why = "fails: " + nn::describe_error(error);
    }
    return fmt::format("its {} {}", program_->name_of(function), why);
  }
  return {};
}

}  // namespace refine
