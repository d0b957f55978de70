#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <array>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/one_line.hpp>
#include <refine/core/task.hpp>
#include <refine/formats/torchscript.hpp>

namespace refine {

/// A defended classifier read from a file that `export_torchscript` wrote: a `DefendedClassifier` without its
/// parts. It has no gradients; whoever trains takes a `Pipeline`.
class Served {
 public:
  /// \throws Error when the file can't be read, is refused (`formats::load_torchscript`), or is no defended
  /// classifier
  explicit Served(const std::filesystem::path& path, formats::Trust trust = formats::Trust::checked)
      : Served(formats::load_torchscript(path, trust), path.string()) {}

  Task task() const { return task_; }
  at::Device device() const { return device_; }

  void to(at::Device device) {
    module_.to(device);
    device_ = device;
  }

  /// Float N×C×H×W in [0, 1] → defended logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return run(0, images); }

  /// The images that the victim sees, N×C×H×W in [0, 1].
  at::Tensor transformed(const at::Tensor& images) const { return run(1, images); }

  /// The victim's own logits N×classes.
  at::Tensor undefended(const at::Tensor& images) const { return run(2, images); }

  /// N scores in [0, 1], high where the two answers disagree.
  at::Tensor alarm(const at::Tensor& images) const { return run(3, images); }

  /// What the file says of itself: `refine.json`.
  const nlohmann::ordered_json& about() const { return about_; }

 private:
  static constexpr std::int64_t largest_image = std::int64_t{1} << 26;  // numbers
  static constexpr std::array<const char*, 4> methods = {"forward", "transform", "undefended", "alarm"};

  Served(formats::TorchScriptFile file, const std::string& name) : module_(std::move(file.module)) {
    const auto refuse = [&](const std::string& why) {
      throw Error(
          "cannot use {} as a defended classifier: {}; make it with export_torchscript or refine defend",
          name, why);
    };
    const auto found = file.listing.extra.find("refine.json");
    if (found == file.listing.extra.end()) refuse("it has no refine.json inside");
    about_ = nlohmann::ordered_json::parse(found->second, nullptr, /*allow_exceptions=*/false);
    const auto natural = [](const nlohmann::ordered_json& value) {
      if (!value.is_number_unsigned()) return false;
      const auto number = value.get<std::uint64_t>();
      return number > 0 && number < (1 << 20);
    };
    if (!about_.is_object() || !about_.contains("image") || !about_["image"].is_array() ||
        about_["image"].size() != 3 || !about_.contains("classes") || !natural(about_["classes"]) ||
        !natural(about_["image"][0]) || !natural(about_["image"][1]) || !natural(about_["image"][2])) {
      refuse("its refine.json does not tell image and classes");
    }
    task_ = {{about_["image"][0], about_["image"][1], about_["image"][2]}, about_["classes"]};
    const auto& [channels, height, width] = task_.image;
    if (std::int64_t{channels} * height * width > largest_image)
      refuse("its refine.json claims an absurd image");
    module_.eval();
    for (std::size_t i = 0; i < methods.size(); ++i) {
      const auto method = module_.find_method(methods[i]);
      if (!method) refuse(std::string("it has no method '") + methods[i] + "'");
      // The plain interpreter: LibTorch's other one spends its first calls on profiling.
      executors_[i] =
          torch::jit::GraphExecutor(method->graph(), methods[i], torch::jit::ExecutorExecutionMode::SIMPLE);
    }
    probe(refuse);
  }

  /// What it says of itself must be so: whoever names a class by its number relies on it.
  void probe(const auto& refuse) const {
    const auto& [channels, height, width] = task_.image;
    const at::Tensor images = at::zeros({2, channels, height, width});
    const std::array<std::vector<std::int64_t>, methods.size()> wanted = {
        {{2, task_.classes}, images.sizes().vec(), {2, task_.classes}, {2}}};
    for (std::size_t i = 0; i < methods.size(); ++i) {
      std::string why;
      try {
        if (run(i, images).sizes() != wanted[i]) why = "does not return what its refine.json says";
      } catch (const c10::Error& error) {
        why = "fails: " + one_line(error.what_without_backtrace());
      } catch (const std::exception& error) {
        why = "fails: " + one_line(error.what());
      }
      if (!why.empty()) refuse(std::string("its method '") + methods[i] + "' " + why);
    }
  }

  at::Tensor run(std::size_t method, const at::Tensor& images) const {
    c10::NoGradGuard no_grad;
    torch::jit::Stack stack = {module_._ivalue(), images};
    executors_[method].run(stack);
    return stack.at(0).toTensor();
  }

  torch::jit::Module module_;
  nlohmann::ordered_json about_;
  Task task_;
  at::Device device_ = at::kCPU;
  mutable std::array<torch::jit::GraphExecutor, methods.size()> executors_;
};

}  // namespace refine
