#pragma once

// What network_names.hpp declares.

#include <refine/backbones/network_names.hpp>

#include <fmt/ranges.h>

#include <cstddef>
#include <string_view>

#include <refine/core/compiled.hpp>
#include <refine/core/plain_name.hpp>

namespace refine::backbones::detail {

REFINE_DEFINITION std::size_t network_number(std::string_view name) {
  for (std::size_t i = 0; i < network_table.size(); ++i) {
    if (same_name(name, network_table[i].name)) return i;
  }
  throw Error("refine: there is no network '{}'; say one of {}, or export the model as TorchScript", name,
              fmt::join(network_names(), ", "));
}

}  // namespace refine::backbones::detail

namespace refine::backbones {

REFINE_DEFINITION std::string_view canonical_network_name(std::string_view name) {
  return detail::network_table[detail::network_number(name)].name;
}

REFINE_DEFINITION int published_width(std::string_view name) {
  return detail::network_table[detail::network_number(name)].width;
}

REFINE_DEFINITION int narrow_width(std::string_view name) {
  return detail::network_table[detail::network_number(name)].narrow;
}

}  // namespace refine::backbones
