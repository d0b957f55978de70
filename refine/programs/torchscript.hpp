#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/module.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/nn/device.hpp>
#include <refine/programs/detail/program_checks.hpp>
#include <refine/programs/detail/scripted_module.hpp>

namespace refine::backbones {

/// Options of `Scripted`: what is known of a TorchScript classifier. The rest is found by a probe.
struct ScriptedOptions {
  Task task = dynamic_task;  ///< image shape and number of classes; what is specified is checked
  /// Shapes to try, in this order, if the image shape is open. The first that works is taken.
  std::vector<ImageShape> candidates = default_candidates();
  formats::Trust trust = formats::Trust::checked;  ///< which files are loaded
  /// Which tensor is the logits if `forward` returns several: its position, key or field name ("1",
  /// "logits", "heads.0"). Empty: the only one that is images×classes.
  std::string output = {};
  int likely_classes =
      dynamic;  ///< decides between several outputs; unlike `task.classes`, it is not checked

  /// Returns squares of usual sizes, first with 3 channels, then with 1.
  static std::vector<ImageShape> default_candidates() {
    std::vector<ImageShape> shapes;
    for (int channels : {3, 1}) {
      for (int side : {224, 32, 28, 64, 96, 128, 256, 299, 384, 48}) shapes.push_back({channels, side, side});
    }
    return shapes;
  }
};

/// Any TorchScript classifier, traced or scripted, as a frozen backbone. It is not trained;
/// gradients flow to its input.
///
///     auto victim = backbones::Scripted<>{"untrusted.pt"};
///     auto victim = backbones::Scripted<Task{{3, 224, 224}, 1000}>{"untrusted.pt"};
///
/// The file is checked before anything in it runs (`formats::load_torchscript`), then frozen by
/// LibTorch. A probe finds the image shape and the number of classes, and compares them with those
/// specified. If `forward` returns several tensors, the only one that is images×classes is taken;
/// if there are several such tensors, the number of classes (`task`, `likely_classes`) or
/// `ScriptedOptions::output` must decide. If it returns probabilities, their logarithm is taken.
///
/// The program gets images in [0, 1]. Wrap it in `Normalized`, and that in `freeze`, if it expects
/// normalised images.
template <Task kTask = dynamic_task>
class Scripted {
 public:
  static constexpr Task static_task = kTask;  ///< the task that the type fixes
  static constexpr bool frozen = true;        ///< marks a `FrozenBackbone`

  /// Loads a file.
  /// \param path a TorchScript file
  /// \param options what is known of it
  /// \throws Error if the file cannot be read, is refused, is not a classifier, or contradicts the
  ///   options
  explicit Scripted(const std::filesystem::path& path, const ScriptedOptions& options = {})
      : Scripted(formats::load_torchscript(path, options.trust).module, path.string(), options) {}

  /// Takes a module that is already loaded.
  /// \param source is left unchanged
  /// \param name its name, for messages
  /// \param options what is known of it; `trust` is not used
  /// \throws Error if it is not a classifier, or contradicts the options
  Scripted(const torch::jit::Module& source, const std::string& name, const ScriptedOptions& options = {}) {
    try {
      module = std::make_shared<detail::ScriptedModule>(source, name);
    } catch (const c10::Error& error) {
      throw Error("cannot use {} as a classifier: {}; export it again, in evaluation mode", name,
                  nn::describe_error(error));
    }
    if (!options.output.empty() && !module->needs_selection()) {
      throw Error("cannot use --output {} with {}: forward returns one tensor; leave --output out",
                  options.output, name);
    }
    probe(name, options);
  }

  Task task = dynamic_task;                        ///< what it classifies; fully known after construction
  std::shared_ptr<detail::ScriptedModule> module;  ///< holds the program and its tensors

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const {
    const at::Tensor output = module->forward(images);
    return probabilities_ ? output.clamp_min(1e-12).log() : output;
  }

  /// True if the program returns probabilities, whose logarithm `forward` takes.
  bool probabilities() const { return probabilities_; }

 private:
  /// Finds the task. Runs the program on one to three images of each shape in question, because
  /// some files were traced for one batch size.
  void probe(const std::string& name, const ScriptedOptions& options) {
    const Task specified = merged(kTask, options.task);
    detail::require_task_of_type("Scripted", kTask, options.task);
    std::vector<ImageShape> shapes;
    if (specified.image.is_static()) {
      shapes = {specified.image};
    } else {
      for (const ImageShape& shape : options.candidates) {
        const bool known = std::ranges::find(shapes, shape) != shapes.end();
        if (shape.is_static() && compatible(specified.image, shape) && !known) shapes.push_back(shape);
      }
    }
    if (shapes.empty()) {
      throw Error("cannot use {} as a classifier: no candidate shape matches {}; specify a full image shape",
                  name, specified.image);
    }
    std::string why, advice;
    bool answered = false;  // a wrong output is more informative than a failure
    for (const ImageShape& shape : shapes) {
      for (const bool channels_last : {true, false}) {
        module->use_channels_last(channels_last);
        const std::optional<Problem> problem = try_shape(shape, name, options);
        if (!problem) {
          detail::require_classes(name, specified.classes, task.classes);
          return;
        }
        if (&shape == &shapes.front() || (problem->answered && !answered)) {
          why = problem->why;
          advice = problem->advice;
          answered = problem->answered;
        }
      }
    }
    throw Error("cannot use {} as a classifier of batches of images: {} ({}); {}", name, why,
                shapes.size() == 1
                    ? fmt::format("tried {}", shapes.front())
                    : fmt::format("tried {} and {} other shapes", shapes.front(), shapes.size() - 1),
                advice.empty() ? "specify the shape it was made for, or export it again, for any batch size"
                               : advice);
  }

  struct Problem {
    std::string why;
    bool answered;            ///< it returned something, but not logits
    std::string advice = {};  ///< how to export it; empty: not known
  };

  /// Sets the task and `probabilities_` if images of a shape get logits; otherwise returns why they
  /// do not.
  std::optional<Problem> try_shape(const ImageShape& shape, const std::string& name,
                                   const ScriptedOptions& options) {
    c10::NoGradGuard no_grad;
    try {
      at::Tensor output;
      if (module->needs_selection()) {
        if (auto problem = select_output(shape, name, options)) return problem;
      }
      for (std::int64_t n : {2, 1, 3}) {
        output = module->forward(detail::ramp(n, shape));
        if (!detail::is_logits(output, n)) {
          return Problem{
              fmt::format(
                  "its output for {} image(s) has shape {} (expected images×classes, at least 2 classes)", n,
                  shape_of(output)),
              true, detail::advice_on_export(output.sizes().vec(), output.is_floating_point(), n)};
        }
      }
      task = Task{shape, static_cast<int>(output.size(1))};
      probabilities_ = detail::are_probabilities(output);
      return std::nullopt;
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      return Problem{nn::describe_error(error), false};
    }
  }

  static std::string shape_of(const at::Tensor& tensor) {
    std::string sizes;
    for (auto extent : tensor.sizes()) sizes += (sizes.empty() ? "" : "×") + std::to_string(extent);
    return sizes.empty() ? "scalar" : sizes;
  }

  /// Selects the logits among the tensors that the program returns for images of a shape.
  /// \return why none of them can be the logits
  /// \throws Error if it must be specified which one they are
  std::optional<Problem> select_output(const ImageShape& shape, const std::string& name,
                                       const ScriptedOptions& options) {
    using Output = detail::ScriptedModule::Output;
    const std::int64_t n = 2;
    const std::vector<Output> all = module->outputs(detail::ramp(n, shape));
    const auto list = [&](auto&& included) {
      return detail::list_outputs(
          all, [](const Output& output) { return shape_of(output.value); }, included);
    };
    const auto every = [](std::size_t) { return true; };
    if (!options.output.empty()) {
      module->select_output(all[detail::find_output(all, options.output, name, list(every))]);
      return std::nullopt;
    }
    const int classes = merged(merged(kTask, options.task).classes, options.likely_classes);
    std::vector<const Output*> fits;
    for (const bool by_classes : {false, true}) {
      if (by_classes && (fits.size() < 2 || classes == dynamic)) break;
      std::vector<const Output*> found;
      for (const Output& output : all) {
        if (detail::is_logits(output.value, n) && (!by_classes || output.value.size(1) == classes)) {
          found.push_back(&output);
        }
      }
      if (!by_classes || !found.empty()) fits = std::move(found);
    }
    if (fits.empty()) {
      return Problem{
          all.empty()
              ? "its forward returns no tensor"
              : fmt::format(
                    "none of its outputs for {} images is images×classes, with at least 2 classes: {}", n,
                    list(every)),
          true};
    }
    if (fits.size() > 1) {
      const auto fits_at = [&](std::size_t i) { return std::ranges::find(fits, &all[i]) != fits.end(); };
      detail::refuse_several_outputs(name, list(fits_at), static_cast<std::size_t>(fits.back() - all.data()),
                                     "ScriptedOptions");
    }
    module->select_output(*fits.front());
    return std::nullopt;
  }

  bool probabilities_ = false;
};

}  // namespace refine::backbones
