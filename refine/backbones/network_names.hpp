#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

#include <refine/core/error.hpp>

namespace refine::backbones {

namespace detail {

struct NetworkName {
  std::string_view name;
  int width;   ///< as published
  int narrow;  ///< that a few minutes of two processor cores can train on small images
};

inline constexpr std::array network_table = {
    NetworkName{"ResNet18", 64, 16},    NetworkName{"ResNet50", 64, 8},    NetworkName{"VGG16", 64, 16},
    NetworkName{"DenseNet121", 64, 32}, NetworkName{"InceptionV3", 32, 8}, NetworkName{"ViT", 512, 128},
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

}  // namespace refine::backbones

#if !defined(REFINE_COMPILED)
#include <refine/backbones/network_names_definitions.hpp>
#endif
