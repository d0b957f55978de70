#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
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

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/programs/detail/scripted_module.hpp>

namespace refine::backbones {

/// What is known of a TorchScript classifier beforehand; what is not is found out.
struct ScriptedOptions {
  Task task = dynamic_task;  ///< checked where it is said
  /// Shapes that are tried, in this order, where the image shape is open; the first that works is taken.
  std::vector<ImageShape> candidates = default_candidates();
  formats::Trust trust = formats::Trust::checked;
  /// Which tensor is the logits where `forward` returns several: its position, or its key or field name
  /// ("logits", "heads.0"). Empty: the only one that is images×classes.
  std::string output = {};
  /// Decides between several such outputs; unlike `task.classes` it is not checked.
  int likely_classes = dynamic;

  static std::vector<ImageShape> default_candidates() {
    std::vector<ImageShape> shapes;
    for (int channels : {3, 1}) {
      for (int side : {224, 32, 28, 64, 96, 128, 256, 299, 384, 48}) shapes.push_back({channels, side, side});
    }
    return shapes;
  }
};

/// Any TorchScript classifier, traced or scripted, as a frozen backbone: nobody trains it, gradients flow to
/// its input.
///
///     auto victim = backbones::Scripted<>{"untrusted.pt"};
///     auto victim = backbones::Scripted<Task{{3, 224, 224}, 1000}>{"untrusted.pt"};
///
/// The file is checked before anything of it runs (`formats::load_torchscript`), then frozen by LibTorch.
/// Image shape and number of classes are found by a probe, and checked against what was said. Where `forward`
/// returns several tensors, the only one that is images×classes is taken, and `ScriptedOptions::output` is
/// required if there are several; where it returns probabilities, their logarithm is taken.
///
/// The file sees the images as they are, in [0, 1]; one that wants normalised images goes into
/// `backbones::Normalized`, and that into `freeze`.
template <Task kTask = dynamic_task>
class Scripted {
 public:
  static constexpr Task static_task = kTask;
  static constexpr bool frozen = true;

  /// \throws Error when the file can't be read, is refused, is no classifier, or does not fit what was said
  explicit Scripted(const std::filesystem::path& path, const ScriptedOptions& options = {})
      : Scripted(formats::load_torchscript(path, options.trust).module, path.string(), options) {}

  /// A module that is loaded already. \param name of it, for messages
  Scripted(const torch::jit::Module& source, const std::string& name, const ScriptedOptions& options = {}) {
    try {
      module = std::make_shared<detail::ScriptedModule>(source, name);
    } catch (const c10::Error& error) {
      throw Error("cannot use {} as a classifier: {}; export it again, in evaluation mode", name,
                  one_line(error.what_without_backtrace()));
    }
    probe(name, options);
  }

  Task task = dynamic_task;
  std::shared_ptr<detail::ScriptedModule> module;

  /// Float N×C×H×W in [0, 1] → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const {
    const at::Tensor answer = module->forward(images);
    return probabilities_ ? answer.clamp_min(1e-12).log() : answer;
  }

  /// Whether the file returns probabilities, whose logarithm is taken.
  bool probabilities() const { return probabilities_; }

 private:
  /// Runs it on one to three images of each shape in question: some files were traced for one batch size.
  void probe(const std::string& name, const ScriptedOptions& options) {
    const Task said = merged(kTask, options.task);
    if (!compatible(kTask, options.task)) {
      Message why;
      require_agreement(why << "Scripted<" << kTask.image << ", " << kTask.classes
                            << "> was told another task: " << options.task.image << ", "
                            << options.task.classes << " classes");
    }
    std::vector<ImageShape> shapes;
    if (said.image.is_static()) {
      shapes = {said.image};
    } else {
      for (const ImageShape& shape : options.candidates) {
        const bool known = std::ranges::find(shapes, shape) != shapes.end();
        if (shape.is_static() && compatible(said.image, shape) && !known) shapes.push_back(shape);
      }
    }
    std::string why = "there was none to try";
    bool answered = false;  // what it answers says more than why it fails
    for (const ImageShape& shape : shapes) {
      for (const bool channels_last : {true, false}) {
        module->use_channels_last(channels_last);
        const std::optional<Problem> problem = try_shape(shape, name, options);
        if (!problem) {
          require_classes(name, said.classes);
          return;
        }
        if (&shape == &shapes.front() || (problem->answered && !answered)) {
          why = problem->why;
          answered = problem->answered;
        }
      }
    }
    Message first;
    if (!shapes.empty()) first << shapes.front();
    throw Error(
        "cannot use {} as a classifier of batches of images: {} ({}); say the shape it was made for, or "
        "export it "
        "anew, for any batch size",
        name, why,
        shapes.size() == 1 ? "tried " + std::string(first.view())
                           : fmt::format("tried {} and {} other shapes", first.view(), shapes.size() - 1));
  }

  struct Problem {
    std::string why;
    bool answered;  ///< it gave something, but no logits
  };

  /// Why images of this shape get no logits; the task and the kind of answer where they do.
  std::optional<Problem> try_shape(const ImageShape& shape, const std::string& name,
                                   const ScriptedOptions& options) {
    c10::NoGradGuard no_grad;
    try {
      at::Tensor answer;
      if (module->needs_selection()) {
        if (auto problem = select_output(shape, name, options)) return problem;
      }
      for (std::int64_t n : {2, 1, 3}) {
        answer = module->forward(ramp(n, shape));
        if (!is_logits(answer, n)) {
          return Problem{
              fmt::format("its answer to {} image(s) has the shape {}, not images×classes, classes 2 or more",
                          n, shape_of(answer)),
              true};
        }
      }
      task = Task{shape, static_cast<int>(answer.size(1))};
      probabilities_ = answer.min().item<double>() >= 0 &&
                       at::allclose(answer.sum(1), at::ones({answer.size(0)}, answer.options()), 0, 1e-3);
      return std::nullopt;
    } catch (const Error&) {
      throw;
    } catch (const c10::Error& error) {
      return Problem{one_line(error.what_without_backtrace()), false};
    } catch (const std::exception& error) {
      return Problem{one_line(error.what()), false};
    }
  }

  static at::Tensor ramp(std::int64_t n, const ImageShape& shape) {
    return at::linspace(0, 1, n * shape.channels * shape.height * shape.width)
        .view({n, shape.channels, shape.height, shape.width})
        .contiguous(at::MemoryFormat::ChannelsLast);
  }

  static bool is_logits(const at::Tensor& answer, std::int64_t images) {
    return answer.dim() == 2 && answer.size(0) == images && answer.size(1) >= 2 && answer.is_floating_point();
  }

  static std::string shape_of(const at::Tensor& tensor) {
    std::string sizes;
    for (auto extent : tensor.sizes()) sizes += (sizes.empty() ? "" : "×") + std::to_string(extent);
    return sizes.empty() ? "of a scalar" : sizes;
  }

  /// Selects the logits among the tensors that the file returns for images of this shape.
  /// \return why none of them can be the logits \throws Error when it must be specified which one they are
  std::optional<Problem> select_output(const ImageShape& shape, const std::string& name,
                                       const ScriptedOptions& options) {
    using Output = detail::ScriptedModule::Output;
    const std::int64_t n = 2;
    const std::vector<Output> all = module->outputs(ramp(n, shape));
    const auto list = [&](auto&& included) {
      std::string text;
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (!included(all[i])) continue;
        const std::string position = std::to_string(i);
        text += fmt::format("{}{}{} ({})", text.empty() ? "" : ", ", position,
                            all[i].name == position || all[i].name.empty() ? "" : " '" + all[i].name + "'",
                            shape_of(all[i].value));
      }
      return text;
    };
    const auto every = [](const Output&) { return true; };
    if (!options.output.empty()) {
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (options.output != all[i].name && options.output != std::to_string(i)) continue;
        module->select_output(all[i]);
        return std::nullopt;
      }
      throw Error("cannot use {}: forward has no output '{}'; specify one of: {}", name, options.output,
                  list(every));
    }
    const int classes = merged(merged(kTask, options.task).classes, options.likely_classes);
    std::vector<const Output*> fits;
    for (const bool by_classes : {false, true}) {
      if (by_classes && (fits.size() < 2 || classes == dynamic)) break;
      std::vector<const Output*> found;
      for (const Output& output : all) {
        if (is_logits(output.value, n) && (!by_classes || output.value.size(1) == classes)) {
          found.push_back(&output);
        }
      }
      if (!by_classes || !found.empty()) fits = std::move(found);
    }
    if (fits.empty()) {
      return Problem{all.empty()
                         ? "its forward returns no tensor"
                         : fmt::format("none of its outputs to {} images is images×classes, classes 2 "
                                       "or more: {}",
                                       n, list(every)),
                     true};
    }
    if (fits.size() > 1) {
      throw Error(
          "cannot use {}: forward returns several tensors that could be the logits: {}; specify which one, as "
          "--output {} (ScriptedOptions::output)",
          name, list([&](const Output& o) { return std::ranges::find(fits, &o) != fits.end(); }),
          static_cast<std::size_t>(fits.back() - all.data()));
    }
    module->select_output(*fits.front());
    return std::nullopt;
  }

  void require_classes(const std::string& name, int said) const {
    if (compatible(said, task.classes)) return;
    throw Error("cannot use {}: it has {} classes, {} were said; say the number it has, or nothing", name,
                task.classes, said);
  }

  bool probabilities_ = false;
};

}  // namespace refine::backbones
