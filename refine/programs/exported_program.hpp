#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/nn/device.hpp>
#include <refine/programs/detail/exported_module.hpp>
#include <refine/programs/detail/program_checks.hpp>

namespace refine::backbones {

/// Options of `ExportedProgram`: what is known of a classifier of torch.export. The rest is in the
/// file.
struct ExportedProgramOptions {
  Task task = dynamic_task;  ///< image shape and number of classes; what is specified is checked
  ImageShape likely_image =
      {};  ///< shape for extents that the file leaves open; unlike `task.image`, not checked
  formats::Trust trust = formats::Trust::checked;  ///< which files are loaded
  /// Which tensor is the logits if `forward` returns several: its position, key or field name ("1",
  /// "logits"). Empty: the only one that is images×classes.
  std::string output = {};
  int likely_classes =
      dynamic;  ///< decides between several outputs; unlike `task.classes`, it is not checked
};

/// Any classifier that `torch.export.save` wrote (.pt2), as a frozen backbone. It is not trained;
/// gradients flow to its input.
///
///     auto victim = backbones::ExportedProgram<>{"untrusted.pt2"};
///     auto victim = backbones::ExportedProgram<Task{{3, 224, 224}, 1000}>{"untrusted.pt2"};
///
/// The file is checked before anything in it runs (`formats::read_exported_program`). Its operators
/// are then called one after the other through LibTorch's dispatcher; no Python is needed, and the
/// deprecated TorchScript is not used. The image shape comes from the file; extents that it leaves
/// open are those of the options, else those that it was exported with. A program that was exported
/// for one batch size gets batches of that size, the last one filled up, if it cannot do otherwise.
/// If it returns probabilities, their logarithm is taken.
///
/// The program gets images in [0, 1]. Wrap it in `Normalized`, and that in `freeze`, if it expects
/// normalised images.
template <Task kTask = dynamic_task>
class ExportedProgram {
 public:
  static constexpr Task static_task = kTask;  ///< the task that the type fixes
  static constexpr bool frozen = true;        ///< marks a `FrozenBackbone`

  /// Loads a file.
  /// \param path a file of torch.export.save
  /// \param options what is known of it
  /// \throws Error if the file cannot be read, is refused, is not a classifier, contradicts the
  ///   options, or gives an image an answer that depends on its batch or on chance
  explicit ExportedProgram(const std::filesystem::path& path, const ExportedProgramOptions& options = {})
      : ExportedProgram(formats::read_exported_program(path, options.trust), path.string(), options) {}

  /// Takes a program that is already read.
  /// \param program the program; it is kept, so that `export_pt2` can write its graph unchanged
  /// \param name its name, for messages
  /// \param options what is known of it; `trust` is not used
  /// \throws Error as the other constructor, except for reading the file
  ExportedProgram(formats::ExportedProgram program, const std::string& name,
                  const ExportedProgramOptions& options = {})
      : module(std::make_shared<detail::ExportedModule>(std::move(program), name)), name_(name) {
    detail::require_task_of_type("ExportedProgram", kTask, options.task);
    task.image =
        detail::image_shape(module->images(), merged(kTask, options.task).image, options.likely_image,
                            fmt::format("cannot use {} as a classifier", name), "--image");
    module->select_output(choose_output(options));
    probe(merged(kTask, options.task).classes);
  }

  Task task = dynamic_task;                        ///< what it classifies; fully known after construction
  std::shared_ptr<detail::ExportedModule> module;  ///< holds the program and its tensors

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const {
    const at::Tensor output = module->forward(images);
    return probabilities_ ? output.clamp_min(1e-12).log() : output;
  }

  /// True if the program returns probabilities, whose logarithm `forward` takes.
  bool probabilities() const { return probabilities_; }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw Error("cannot use {} as a classifier: {}; export a module whose forward maps images to logits",
                name_, why);
  }

  static bool is_float(const formats::GraphShape& shape) {
    return formats::element_name(shape.type).find("float") != std::string_view::npos;
  }

  static bool is_logits(const formats::GraphShape& shape) {
    return shape.sizes.size() == 2 && !(shape.sizes[1] && *shape.sizes[1] < 2) && is_float(shape);
  }

  /// Returns the position of the logits among the outputs.
  std::size_t choose_output(const ExportedProgramOptions& options) const {
    const auto& all = module->outputs();
    const auto sizes = [](const auto& output) { return detail::sizes_text(output.shape); };
    const auto list = [&](auto&& included) { return detail::list_outputs(all, sizes, included); };
    const auto every = [](std::size_t) { return true; };
    if (!options.output.empty()) return detail::find_output(all, options.output, name_, list(every));
    const int classes = merged(merged(kTask, options.task).classes, options.likely_classes);
    std::vector<std::size_t> fits, exact;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!is_logits(all[i].shape)) continue;
      fits.push_back(i);
      if (all[i].shape.sizes[1] == classes) exact.push_back(i);
    }
    if (fits.size() > 1 && !exact.empty()) fits = exact;
    if (fits.empty()) {
      std::string advice;
      if (all.size() == 1) {
        std::vector<std::int64_t> known;
        for (const auto& size : all.front().shape.sizes) known.push_back(size.value_or(dynamic));
        advice = detail::advice_on_export(known, is_float(all.front().shape));
      }
      fail("none of its outputs is images×classes, with at least 2 classes: " + list(every) +
           (advice.empty() ? "" : "; " + advice));
    }
    if (fits.size() > 1) {
      const auto fits_at = [&](std::size_t i) { return std::ranges::find(fits, i) != fits.end(); };
      detail::refuse_several_outputs(name_, list(fits_at), fits.back(), "ExportedProgramOptions");
    }
    return fits.front();
  }

  /// Runs the program on a few images, in both memory layouts if necessary, and sets the number of
  /// classes.
  void probe(int specified_classes) {
    const c10::NoGradGuard no_grad;
    std::string why;
    for (const bool channels_last : {true, false}) {
      module->use_channels_last(channels_last);
      const std::string problem = try_batches();
      if (problem.empty()) {
        return detail::require_classes(name_, specified_classes, task.classes);
      }
      why = problem;
    }
    throw Error(
        "cannot use {} as a classifier of images of {}: {}; export it again, for any batch size: "
        "torch.export.export(model.eval(), (images,), dynamic_shapes=({{0: torch.export.Dim.DYNAMIC}},))",
        name_, task.image, why);
  }

  /// Tries several batch sizes. A program that was exported for one of them may fail for others, or
  /// mix up the images, and then gets batches of that size.
  /// \return why the program cannot be used; empty if it can
  std::string try_batches() {
    const auto fixed = module->images().sizes[0];
    const at::Tensor images = detail::ramp(3, task.image);
    module->use_batches_of(fixed.value_or(0));
    std::vector<at::Tensor> outputs;
    for (const std::int64_t n : {2, 1, 3, 3}) {
      const std::string why = try_images(images.narrow(0, 0, n), outputs.emplace_back());
      if (!why.empty()) return why;
    }
    const at::Tensor& expected = outputs.back();
    for (const at::Tensor& output : outputs) {
      if (output.size(1) != expected.size(1) || !detail::have_same_rows(output, expected))
        return "its answer to an image depends on the batch or on chance, as in training mode; call eval() before "
               "exporting it";
    }
    task.classes = static_cast<int>(expected.size(1));
    probabilities_ = detail::are_probabilities(expected);
    if (!fixed) return {};
    module->use_batches_of(0);
    for (const std::int64_t n : {1, 2, 3}) {
      at::Tensor output;
      if (!try_images(images.narrow(0, 0, n), output).empty() ||
          !at::allclose(output, expected.narrow(0, 0, n), 1e-3, 1e-4)) {
        module->use_batches_of(*fixed);
        break;
      }
    }
    return {};
  }

  /// Runs the program.
  /// \return why the output is not logits; empty if it is
  std::string try_images(const at::Tensor& images, at::Tensor& output) const {
    try {
      output = module->forward(images);
    } catch (const std::exception& error) {
      return nn::describe_error(error);
    }
    if (detail::is_logits(output, images.size(0))) return {};
    return fmt::format("its output for {} image(s) has {} dimensions and {} numbers, expected images×classes",
                       images.size(0), output.dim(), output.numel());
  }

  std::string name_;
  bool probabilities_ = false;
};

}  // namespace refine::backbones
