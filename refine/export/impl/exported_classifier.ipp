#pragma once

#include <refine/export/exported_classifier.hpp>

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <exception>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/text.hpp>

namespace refine {

REFINE_INLINE at::Device ExportedClassifier::device() const {
  for (const at::Tensor& parameter : module_.parameters()) return parameter.device();
  for (const at::Tensor& buffer : module_.buffers()) return buffer.device();
  return device_;
}

REFINE_INLINE void ExportedClassifier::to(at::Device device) {
  module_.to(device);
  device_ = device;
}

REFINE_INLINE ExportedClassifier::ExportedClassifier(formats::TorchScriptFile file, const std::string& name,
                                                     std::optional<Answer> answer)
    : module_(std::move(file.module)) {
  const auto refuse = [&](const std::string& why) {
    throw Error(
        "cannot use {} as a defended classifier: {}; make it with export_torchscript or refine defend", name,
        why);
  };
  const auto found = file.listing.extra.find("refine.json");
  if (found == file.listing.extra.end()) refuse("it has no refine.json inside");
  about_ = std::make_shared<const nlohmann::ordered_json>(
      nlohmann::ordered_json::parse(found->second, nullptr, /*allow_exceptions=*/false));
  const nlohmann::ordered_json& about = *about_;
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
  task_ = {{about["image"][0], about["image"][1], about["image"][2]}, about["classes"]};
  const auto& [channels, height, width] = task_.image;
  if (std::int64_t{channels} * height * width > largest_image) {
    refuse(fmt::format("the image in its refine.json is too large (got {}x{}x{}, expected up to {} values)",
                       channels, height, width, largest_image));
  }
  std::optional<Answer> stored;  // a file without the gated answer does not state one
  if (const auto word = about.find("answer"); word != about.end()) {
    stored = word->is_string() ? parse_answer(word->get<std::string>()) : std::nullopt;
    if (!stored) refuse("its refine.json has another answer than 'defended' or 'gated'");
  }
  answer_ = answer.value_or(stored.value_or(Answer::defended));
  if (!stored && answer_ == Answer::gated) {
    throw Error(
        "cannot serve the gated answer of {}: the file has the defended one only; write it again with refine "
        "export --answer gated",
        name);
  }
  if (stored && answer) methods_[0] = to_text(answer_);
  module_.eval();
  for (std::size_t i = 0; i < methods_.size(); ++i) {
    const auto method = module_.find_method(methods_[i]);
    if (!method) refuse("it has no method '" + methods_[i] + "'");
    // The simple interpreter: the default one profiles during its first calls.
    executors_[i] =
        torch::jit::GraphExecutor(method->graph(), methods_[i], torch::jit::ExecutorExecutionMode::SIMPLE);
  }
  check_methods(refuse);
}

REFINE_INLINE void ExportedClassifier::check_methods(
    const std::function<void(const std::string&)>& refuse) const {
  const auto& [channels, height, width] = task_.image;
  const at::Tensor images = at::zeros({2, channels, height, width});
  const std::array<std::vector<std::int64_t>, 4> expected = {
      {{2, task_.classes}, images.sizes().vec(), {2, task_.classes}, {2}}};
  for (std::size_t i = 0; i < methods_.size(); ++i) {
    std::string why;
    try {
      if (run(i, images).sizes() != expected[i]) why = "returns another shape than its refine.json promises";
    } catch (const c10::Error& error) {
      why = "fails: " + text::one_line(error.what_without_backtrace());
    } catch (const std::exception& error) {
      why = "fails: " + text::one_line(error.what());
    }
    if (!why.empty()) refuse("its method '" + methods_[i] + "' " + why);
  }
}

REFINE_INLINE at::Tensor ExportedClassifier::run(std::size_t method, const at::Tensor& images) const {
  c10::NoGradGuard no_grad;
  torch::jit::Stack stack = {module_._ivalue(), images};
  executors_[method].run(stack);
  return stack.at(0).toTensor();
}

}  // namespace refine
