#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <torch/nn/module.h>

#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/baselines/substitutes.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// A student that answers in the victim's place, of networks that are chosen at run time
/// (`baselines::distill`).
using AnyStudent = baselines::Substitute<backbones::Frozen<backbones::AnyBackbone>, backbones::AnyBackbone>;

/// A defense of either kind that `defend` trains: REFINE's pipeline, or a student. It is a
/// `DefendedClassifier` and a `ServableDefense` itself, so that measuring and exporting need not know
/// the kind. Copies share the networks.
///
///     at::Tensor logits = defended.defense.forward(images);
///     if (const AnyPipeline* pipeline = defended.defense.pipeline()) std::cout << pipeline->transform().describe();
class TrainedDefense {
 public:
  /// Holds a pipeline.
  TrainedDefense(AnyPipeline pipeline) : held_(std::move(pipeline)) {}

  /// Holds a student. Its module moves to the device of the victim, to channels-last layout and to
  /// evaluation mode.
  /// \param student victim and classifier
  /// \param description of the classifier in a few words, as "ResNet18 of width 16"
  TrainedDefense(AnyStudent student, std::string description)
      : held_(std::move(student)), description_(std::move(description)) {
    const AnyStudent& held = *this->student();
    torch::nn::Module& module = *held.classifier.module;
    nn::move_to(module, nn::device_of(*held.victim.module).value_or(at::kCPU));
    nn::to_channels_last(module);
    module.eval();
  }

  /// Returns the pipeline; null if the defense is a student.
  const AnyPipeline* pipeline() const { return std::get_if<AnyPipeline>(&held_); }
  AnyPipeline* pipeline() { return std::get_if<AnyPipeline>(&held_); }  ///< Likewise.

  /// Returns the student; null if the defense is a pipeline.
  const AnyStudent* student() const { return std::get_if<AnyStudent>(&held_); }
  AnyStudent* student() { return std::get_if<AnyStudent>(&held_); }  ///< Likewise.

  /// Returns the word for the kind in files and on the command line: "refine" or "student".
  std::string_view kind() const { return student() ? "student" : "refine"; }

  /// Returns what was trained in one line: the transform's description, or the student's.
  std::string describe() const { return pipeline() ? pipeline()->transform().describe() : description_; }

  /// Returns the module that was trained, with its encoder if it has one.
  const torch::nn::Module& trained() const {
    return pipeline() ? *pipeline()->transform().module : *student()->classifier.module;
  }

  /// Returns the image shape and the number of classes.
  Task task() const {
    return std::visit([](const auto& defense) { return defense.task(); }, held_);
  }

  /// Returns the device of the networks.
  at::Device device() const {
    return std::visit([](const auto& defense) { return defense.device(); }, held_);
  }

  /// Moves the networks, which copies share.
  void to(at::Device device) {
    std::visit([&](auto& defense) { defense.to(device); }, held_);
  }

  /// Returns the defended logits, N×classes.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  at::Tensor forward(const at::Tensor& images) const {
    return std::visit([&](const auto& defense) { return defense.forward(images); }, held_);
  }

  /// Returns the victim's logits, N×classes.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  at::Tensor undefended(const at::Tensor& images) const {
    return std::visit([&](const auto& defense) { return defense.undefended(images); }, held_);
  }

  /// Returns the transform's output; of a student, the images.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  at::Tensor transformed(const at::Tensor& images) const {
    return std::visit([&](const auto& defense) { return defense.transformed(images); }, held_);
  }

  /// Returns how much victim and defense disagree, N scores in [0, 1] (`alarm_score`).
  /// \param images float N×C×H×W in [0, 1], on `device()`
  at::Tensor alarm(const at::Tensor& images) const {
    return std::visit([&](const auto& defense) { return defense.alarm(images); }, held_);
  }

  /// Returns the parts that exporters write.
  ServedParts served_parts() const {
    return std::visit([](const auto& defense) { return defense.served_parts(); }, held_);
  }

 private:
  std::variant<AnyPipeline, AnyStudent> held_;
  std::string description_;
};

static_assert(ServableDefense<TrainedDefense>);

}  // namespace refine
