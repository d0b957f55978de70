#pragma once

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/densenet.hpp>
#include <refine/backbones/inception.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vgg.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>

/// \file
/// Networks whose name is known only at run time. Includes every network, and so takes long to
/// compile.

namespace refine::backbones {

namespace detail {

/// Builds a network of type `B`.
template <typename B>
AnyBackbone make_network(const Task& task, int width, std::uint64_t seed) {
  return AnyBackbone(B{.task = task, .width = width, .seed = seed});
}

/// A network that is known by name.
struct NamedNetwork {
  std::string_view name;  ///< as papers write it
  int published_width;    ///< as published
  int narrow_width;       ///< trains in minutes on small images without a GPU
  /// Builds it.
  AnyBackbone (*make)(const Task& task, int width, std::uint64_t seed);
  std::string_view alias = {};  ///< another name; empty: none
};

/// All networks.
inline constexpr std::array network_table = {
    NamedNetwork{"ResNet18", 64, 16, &make_network<ResNet18<>>},
    NamedNetwork{"ResNet50", 64, 8, &make_network<ResNet50<>>},
    NamedNetwork{"VGG16", 64, 16, &make_network<Vgg16<>>, "VGG16BN"},
    NamedNetwork{"DenseNet121", 64, 32, &make_network<DenseNet121<>>},
    NamedNetwork{"InceptionV3", 32, 8, &make_network<InceptionV3<>>},
    NamedNetwork{"ViT", 512, 128, &make_network<ViT<>>},
    NamedNetwork{"PreActResNet18", 64, 16, &make_network<PreActResNet18<>>},
    NamedNetwork{"VGG19", 64, 16, &make_network<Vgg19<>>, "VGG19BN"},
};

}  // namespace detail

/// Options of `network_by_name`. Everything else has the published value for the task's images.
struct NetworkOptions {
  Task task = {};                     ///< what the network classifies
  int width = 0;                      ///< the network's `width`; 0: as published
  std::uint64_t seed = default_seed;  ///< of the initial weights
};

/// Returns the names of all networks, as they are written in papers.
inline constexpr auto network_names() {
  std::array<std::string_view, detail::network_table.size()> names;
  std::ranges::transform(detail::network_table, names.begin(), &detail::NamedNetwork::name);
  return names;
}

namespace detail {

/// Returns the network of a name or alias, or null.
inline const NamedNetwork* find_network(std::string_view name) {
  for (const NamedNetwork& network : network_table) {
    if (text::same_name(name, network.name) || text::same_name(name, network.alias)) return &network;
  }
  return nullptr;
}

/// Returns the network of a name or alias.
/// \throws Error if there is none
inline const NamedNetwork& get_network(std::string_view name) {
  if (const NamedNetwork* network = find_network(name)) return *network;
  throw Error("unknown network '{}' (expected one of {}); for any other, export the model as TorchScript",
              name, fmt::join(network_names(), ", "));
}

}  // namespace detail

/// Builds a network by its name: `network_by_name("resnet-50", {.task = task})`.
/// \param name in any spelling: case, hyphens and underscores do not matter
/// \param options task, width and seed
/// \throws Error if the name is unknown, or the network cannot be built for the task or the width
inline AnyBackbone network_by_name(std::string_view name, const NetworkOptions& options) {
  const detail::NamedNetwork& network = detail::get_network(name);
  return network.make(options.task, options.width == 0 ? network.published_width : options.width,
                      options.seed);
}

/// Returns a network's name as `network_names()` spells it.
/// \param name a name or an alias, in any spelling
/// \throws Error if it is unknown
inline std::string_view canonical_network_name(std::string_view name) {
  return detail::get_network(name).name;
}

/// True if `canonical_network_name` knows the name.
/// \param name in any spelling
inline bool is_network_name(std::string_view name) {
  return detail::find_network(name) != nullptr;
}

/// Returns the `width` that a network was published with.
/// \param name in any spelling
/// \throws Error if it is unknown
inline int published_width(std::string_view name) {
  return detail::get_network(name).published_width;
}

/// Returns a `width` for trials on small images without a GPU, which trains in minutes instead of
/// hours.
/// \param name in any spelling
/// \throws Error if it is unknown
inline int narrow_width(std::string_view name) {
  return detail::get_network(name).narrow_width;
}

}  // namespace refine::backbones
