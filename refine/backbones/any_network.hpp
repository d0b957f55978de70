#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/densenet121.hpp>
#include <refine/backbones/inception_v3.hpp>
#include <refine/backbones/network_names.hpp>
#include <refine/backbones/preact_resnet18.hpp>
#include <refine/backbones/resnet18.hpp>
#include <refine/backbones/resnet50.hpp>
#include <refine/backbones/vgg16.hpp>
#include <refine/backbones/vgg19.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/core/seed.hpp>
#include <refine/core/task.hpp>

namespace refine::backbones {

/// What `network_by_name` tells a network. All else is as published, for the task's images.
struct NetworkOptions {
  Task task = {};
  int width = 0;  ///< the network's own `width`; 0: as published
  std::uint64_t seed = default_seed;
};

namespace detail {

template <typename B>
AnyBackbone made(const Task& task, int width, std::uint64_t seed) {
  return AnyBackbone(B{.task = task, .width = width, .seed = seed});
}

/// In the order of `network_table`.
inline constexpr std::array network_makers = {
    &made<ResNet18<>>,    &made<ResNet50<>>,    &made<Vgg16<>>,
    &made<DenseNet121<>>, &made<InceptionV3<>>, &made<ViT<>>,
    &made<PreActResNet18<>>, &made<Vgg19<>>,
};
static_assert(network_makers.size() == network_table.size(), "refine: a network's name lacks its maker");

}  // namespace detail

/// A network by its name: `network_by_name("resnet-50", {.task = task})`; upper and lower case are one, and
/// hyphens and underscores don't count. \throws Error when no network has that name, or it refuses the task
/// or the width
inline AnyBackbone network_by_name(std::string_view name, const NetworkOptions& options) {
  const auto number = detail::network_number(name);
  const int width = options.width == 0 ? detail::network_table[number].width : options.width;
  return detail::network_makers[number](options.task, width, options.seed);
}

}  // namespace refine::backbones
