#pragma once

#include <refine/defend/detail/prepared_defense.hpp>

#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/baselines/student_networks.hpp>
#include <refine/baselines/substitutes.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/programs/encoder.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/training/fit.hpp>

namespace refine::detail {

REFINE_INLINE std::string describe_student(const Task& task, int width, const ImageShape& sees) {
  return fmt::format("{} of width {}{}", student_network, width,
                     sees == task.image ? "" : fmt::format(", sees {}", sees));
}

REFINE_INLINE std::string describe_encoded_student(int width, const ImageShape& sees) {
  return fmt::format("two layers of width {} on an encoder that sees {}", width, sees);
}

REFINE_INLINE bool has_only_weights_of(const torch::nn::Module& network, const torch::nn::Module& other) {
  constexpr std::int64_t few = 64;
  const c10::NoGradGuard no_grad;
  const auto weights_of = [](const torch::nn::Module& module) {
    std::multimap<std::int64_t, at::Tensor> weights;  // by number of elements
    for (const auto& [name, tensor] : nn::state_dict(module)) {
      if (tensor.is_floating_point() && tensor.numel() >= few)
        weights.emplace(tensor.numel(), tensor.to(at::kCPU, at::kFloat).contiguous().flatten());
    }
    return weights;
  };
  const auto own = weights_of(network), others = weights_of(other);
  return !own.empty() && std::ranges::all_of(own, [&](const auto& weight) {
    const auto [first, last] = others.equal_range(weight.first);
    return std::any_of(first, last,
                       [&](const auto& candidate) { return candidate.second.equal(weight.second); });
  });
}

REFINE_INLINE backbones::AnyBackbone resized_student(const Task& task,
                                                     const backbones::AnyBackbone& network) {
  if (network.task.image == task.image) return network;
  return backbones::AnyBackbone(
      baselines::ResizedClassifier<backbones::AnyBackbone>{.task = task, .inner = network});
}

/// Checks a size that images get. An encoder may need larger ones than the victim has.
/// \throws Error if it is out of range
inline void check_side(std::string_view option, int side, const ImageShape& image, bool is_of_encoder) {
  constexpr int max_factor = 4;
  const int longer = std::max(image.height, image.width);
  if (side < 0) throw Error("{} must be 0 or more, got {}", option, side);
  if (!is_of_encoder && image.is_static() && side > max_factor * longer) {
    throw Error("{}: must be at most {} times the side of the victim's images (got {}, expected {} or less)",
                option, max_factor, side, max_factor * longer);
  }
}

REFINE_INLINE SizedDefense size_defense(const TransformOptions& transform,
                                        const std::optional<StudentOptions>& student,
                                        const LoadedClassifier& victim) {
  const ImageShape image = victim.task().image;
  if (!student) {
    check_side("--see", transform.see, image, !transform.encoder.file.empty());
    check_side("--draw", transform.draw, image, false);
    return {.transform = size_transform(transform, victim)};
  }
  if (transform != TransformOptions{}) {
    throw Error(
        "options of a transform do not apply to a student (--transform, --levels, --draw; its own size and encoder are in "
        "StudentOptions); leave the ones or the other out");
  }
  if (student->width < 0) throw Error("--width must be 0 or more, got {}", student->width);
  check_side("--see", student->see, image, !student->encoder.file.empty());
  return {.student = size_student(*student, image)};
}

REFINE_INLINE PreparedDefense prepare_defense(const LoadedClassifier& victim, const SizedDefense& sized,
                                              std::uint64_t seed) {
  const auto& student = sized.student;
  const Task task = victim.task();
  const auto frozen = freeze(victim.backbone);
  if (!student) {
    AnyPipeline pipeline{make_transform(sized.transform, task.image, seed), frozen,
                         remaps::Derangement<>{.classes = task.classes, .seed = seed}};
    PreparedDefense prepared{
        .defense = pipeline,
        .train = [pipeline](const at::Tensor& images, const Recipe& recipe, AnyObserver& observer,
                            History& history) mutable { fit(pipeline, images, recipe, observer, history); }};
    if (const auto encoder = transforms::encoder_module_of(pipeline.transform())) {
      prepared.encode = [pipeline](const at::Tensor& x) { return pipeline.transform().encode(x); };
      prepared.encoder = encoder;
    }
    return prepared;
  }
  // Other initial weights than a victim of the same architecture and seed had: from the same ones, a student
  // would learn more of the victim than its answers to clean images.
  const std::uint64_t student_seed = derived_seed(seed, "student");
  const auto prepare = [&](const auto& network, backbones::AnyBackbone classifier, std::string description) {
    return PreparedDefense{.defense = {AnyStudent{frozen, std::move(classifier)}, std::move(description)},
                           .train = [network, frozen](const at::Tensor& images, const Recipe& recipe,
                                                      AnyObserver& observer, History& history) {
                             baselines::distill(network, frozen, images, recipe, observer, history);
                           }};
  };
  if (!student->encoder.file.empty()) {
    const transforms::ProgramEncoder encoder =
        load_encoder(student->encoder, task.image, scaled_if(task.image, student->see));
    const int width = student->width > 0 ? student->width : 256;
    const baselines::EncodedClassifier<transforms::ProgramEncoder> network{
        .task = task, .encoder = encoder, .width = width, .seed = student_seed};
    PreparedDefense prepared =
        prepare(network, backbones::AnyBackbone(network), describe_encoded_student(width, encoder.image));
    prepared.encode = [network](const at::Tensor& x) { return network.encode(x); };
    prepared.encoder = encoder.module;
    return prepared;
  }
  const int usual = default_device().is_cuda() ? backbones::published_width(student_network)
                                               : backbones::narrow_width(student_network);
  const int width = student->width > 0 ? student->width : usual;
  const ImageShape sees = scaled(task.image, student->see);
  const backbones::AnyBackbone network = resized_student(
      task, backbones::network_by_name(student_network,
                                       {.task = {sees, task.classes}, .width = width, .seed = student_seed}));
  return prepare(network, network, describe_student(task, width, sees));
}

}  // namespace refine::detail
