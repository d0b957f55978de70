#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <string>
#include <string_view>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/densenet121.hpp>
#include <refine/backbones/inception_v3.hpp>
#include <refine/backbones/resnet18.hpp>
#include <refine/backbones/resnet50.hpp>
#include <refine/backbones/vgg16.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/core/error.hpp>
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

struct NetworkEntry {
  std::string_view name;
  int width;   ///< as published
  int narrow;  ///< that a few minutes of two processor cores can train on small images
  AnyBackbone (*make)(const Task& task, int width, std::uint64_t seed);
};

template <typename B>
AnyBackbone made(const Task& task, int width, std::uint64_t seed) {
  return AnyBackbone(B{.task = task, .width = width, .seed = seed});
}

inline constexpr std::array network_catalogue = {
    NetworkEntry{"ResNet18", 64, 16, &made<ResNet18<>>},
    NetworkEntry{"ResNet50", 64, 16, &made<ResNet50<>>},
    NetworkEntry{"VGG16", 64, 16, &made<Vgg16<>>},
    NetworkEntry{"DenseNet121", 64, 32, &made<DenseNet121<>>},
    NetworkEntry{"InceptionV3", 32, 8, &made<InceptionV3<>>},
    NetworkEntry{"ViT", 512, 128, &made<ViT<>>},
};

}  // namespace detail

/// The names that `network_by_name` knows, as they are written in papers.
inline constexpr auto network_names() {
  std::array<std::string_view, detail::network_catalogue.size()> all;
  std::ranges::transform(detail::network_catalogue, all.begin(), &detail::NetworkEntry::name);
  return all;
}

namespace detail {

/// Upper and lower case are one, and hyphens don't count. \throws Error when no network has that name
inline const NetworkEntry& network_entry(std::string_view name) {
  const auto plain = [](std::string_view text) {
    std::string letters;
    for (const char c : text) {
      if (c != '-') letters += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    return letters;
  };
  const std::string wanted = plain(name);
  for (const auto& entry : network_catalogue) {
    if (plain(entry.name) == wanted) return entry;
  }
  throw Error("refine: there is no network '{}'; say one of {}, or export the model as TorchScript", name,
              fmt::join(network_names(), ", "));
}

}  // namespace detail

/// A name in any spelling that `network_by_name` takes, as `network_names()` has it. \throws Error for an
/// unknown one
inline std::string_view canonical_network_name(std::string_view name) {
  return detail::network_entry(name).name;
}

/// The `width` that a network was published with. \throws Error for an unknown name
inline int published_width(std::string_view name) {
  return detail::network_entry(name).width;
}

/// A `width` for trials on small images without a GPU: minutes of training instead of hours. \throws Error
/// for an unknown name
inline int narrow_width(std::string_view name) {
  return detail::network_entry(name).narrow;
}

/// A network of the catalogue: `network_by_name("resnet-50", {.task = task})`; upper and lower case are one,
/// and hyphens don't count. \throws Error when no network has that name, or it refuses the task or the width
inline AnyBackbone network_by_name(std::string_view name, const NetworkOptions& options) {
  const auto& entry = detail::network_entry(name);
  return entry.make(options.task, options.width == 0 ? entry.width : options.width, options.seed);
}

}  // namespace refine::backbones
