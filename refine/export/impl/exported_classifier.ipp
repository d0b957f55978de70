#pragma once

#include <refine/export/exported_classifier.hpp>

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
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

REFINE_INLINE ExportedClassifier::ExportedClassifier(formats::TorchScriptFile file, const std::string& name)
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
  module_.eval();
  for (std::size_t i = 0; i < methods.size(); ++i) {
    const auto method = module_.find_method(methods[i]);
    if (!method) refuse(std::string("it has no method '") + methods[i] + "'");
    // The simple interpreter: the default one profiles during its first calls.
    executors_[i] =
        torch::jit::GraphExecutor(method->graph(), methods[i], torch::jit::ExecutorExecutionMode::SIMPLE);
  }
  check_methods(refuse);
}

REFINE_INLINE void ExportedClassifier::check_methods(
    const std::function<void(const std::string&)>& refuse) const {
  const auto& [channels, height, width] = task_.image;
  const at::Tensor images = at::zeros({2, channels, height, width});
  constexpr std::int64_t any = -1;  // a transform may draw images of another size
  const std::array<std::vector<std::int64_t>, methods.size()> expected = {
      {{2, task_.classes}, {2, channels, any, any}, {2, task_.classes}, {2}}};
  const auto fits = [](at::IntArrayRef sizes, const std::vector<std::int64_t>& wanted) {
    return std::ranges::equal(sizes, wanted,
                              [](std::int64_t a, std::int64_t b) { return b == any ? a > 0 : a == b; });
  };
  for (std::size_t i = 0; i < methods.size(); ++i) {
    std::string why;
    try {
      if (!fits(run(i, images).sizes(), expected[i]))
        why = "returns another shape than its refine.json promises";
    } catch (const c10::Error& error) {
      why = "fails: " + text::one_line(error.what_without_backtrace());
    } catch (const std::exception& error) {
      why = "fails: " + text::one_line(error.what());
    }
    if (!why.empty()) refuse(std::string("its method '") + methods[i] + "' " + why);
  }
}

REFINE_INLINE at::Tensor ExportedClassifier::run(std::size_t method, const at::Tensor& images) const {
  c10::NoGradGuard no_grad;
  torch::jit::Stack stack = {module_._ivalue(), images};
  executors_[method].run(stack);
  return stack.at(0).toTensor();
}

}  // namespace refine
