#pragma once

// What network_names.hpp declares.

#include <refine/backbones/network_names.hpp>

#include <fmt/ranges.h>

#include <cstddef>
#include <optional>
#include <string_view>

#include <refine/core/compiled.hpp>
#include <refine/core/plain_name.hpp>

namespace refine::backbones::detail {

REFINE_DEFINITION std::optional<std::size_t> find_network(std::string_view name) {
  for (const auto& [alias, meant] : network_aliases) {
    if (same_name(name, alias)) name = meant;
  }
  for (std::size_t i = 0; i < network_table.size(); ++i) {
    if (same_name(name, network_table[i].name)) return i;
  }
  return std::nullopt;
}

REFINE_DEFINITION std::size_t network_number(std::string_view name) {
  if (const auto number = find_network(name)) return *number;
  throw Error("refine: there is no network '{}'; say one of {}, or export the model as TorchScript", name,
              fmt::join(network_names(), ", "));
}

}  // namespace refine::backbones::detail

namespace refine::backbones {

REFINE_DEFINITION std::string_view canonical_network_name(std::string_view name) {
  return detail::network_table[detail::network_number(name)].name;
}

REFINE_DEFINITION bool is_network_name(std::string_view name) {
  return detail::find_network(name).has_value();
}

REFINE_DEFINITION int published_width(std::string_view name) {
  return detail::network_table[detail::network_number(name)].width;
}

REFINE_DEFINITION int narrow_width(std::string_view name) {
  return detail::network_table[detail::network_number(name)].narrow;
}

}  // namespace refine::backbones
