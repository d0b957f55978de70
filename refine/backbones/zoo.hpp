#pragma once

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/densenet.hpp>
#include <refine/backbones/inception.hpp>
#include <refine/backbones/preact_resnet.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vgg.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>

namespace refine::backbones {

namespace detail {

struct NetworkName {
  std::string_view name;
  int width;   ///< as published
  int narrow;  ///< that a few minutes of two processor cores can train on small images
};

inline constexpr std::array network_table = {
    NetworkName{"ResNet18", 64, 16},       NetworkName{"ResNet50", 64, 8},    NetworkName{"VGG16", 64, 16},
    NetworkName{"DenseNet121", 64, 32},    NetworkName{"InceptionV3", 32, 8}, NetworkName{"ViT", 512, 128},
    NetworkName{"PreActResNet18", 64, 16}, NetworkName{"VGG19", 64, 16},
};

/// Other names of the same networks, each with the one above.
struct NetworkAlias {
  std::string_view alias, name;
};

inline constexpr std::array network_aliases = {
    NetworkAlias{"VGG16BN", "VGG16"},
    NetworkAlias{"VGG19BN", "VGG19"},
};

}  // namespace detail

/// The published victims' names, as they are written in papers.
inline constexpr auto network_names() {
  std::array<std::string_view, detail::network_table.size()> all;
  std::ranges::transform(detail::network_table, all.begin(), &detail::NetworkName::name);
  return all;
}

namespace detail {

/// Where the name, or what it is an alias of, stands in the table; nothing where no network has it.
std::optional<std::size_t> find_network(std::string_view name);

/// The same. \throws Error when no network has it
std::size_t network_number(std::string_view name);

}  // namespace detail

/// A name in any spelling (upper and lower case are one, hyphens and underscores don't count), as
/// `network_names()` has it. \throws Error for an unknown one
std::string_view canonical_network_name(std::string_view name);

/// True if `canonical_network_name` knows the name.
bool is_network_name(std::string_view name);

/// The `width` that a network was published with. \throws Error for an unknown name
int published_width(std::string_view name);

/// A `width` for trials on small images without a GPU: minutes of training instead of hours. \throws Error
/// for an unknown name
int narrow_width(std::string_view name);

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
    &made<ResNet18<>>,    &made<ResNet50<>>, &made<Vgg16<>>,          &made<DenseNet121<>>,
    &made<InceptionV3<>>, &made<ViT<>>,      &made<PreActResNet18<>>, &made<Vgg19<>>,
};
static_assert(network_makers.size() == network_table.size(), "a network's name lacks its maker");

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

namespace refine::backbones::detail {

inline std::optional<std::size_t> find_network(std::string_view name) {
  for (const auto& [alias, meant] : network_aliases) {
    if (same_name(name, alias)) name = meant;
  }
  for (std::size_t i = 0; i < network_table.size(); ++i) {
    if (same_name(name, network_table[i].name)) return i;
  }
  return std::nullopt;
}

inline std::size_t network_number(std::string_view name) {
  if (const auto number = find_network(name)) return *number;
  throw Error("there is no network '{}'; say one of {}, or export the model as TorchScript", name,
              fmt::join(network_names(), ", "));
}

}  // namespace refine::backbones::detail

namespace refine::backbones {

inline std::string_view canonical_network_name(std::string_view name) {
  return detail::network_table[detail::network_number(name)].name;
}

inline bool is_network_name(std::string_view name) {
  return detail::find_network(name).has_value();
}

inline int published_width(std::string_view name) {
  return detail::network_table[detail::network_number(name)].width;
}

inline int narrow_width(std::string_view name) {
  return detail::network_table[detail::network_number(name)].narrow;
}

}  // namespace refine::backbones
