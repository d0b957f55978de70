#pragma once

#include <string_view>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/encoder_decoder.hpp>

namespace refine::testing {

/// Returns a network of the library by its name, at its smallest width, for ten classes.
inline backbones::AnyBackbone narrow_network(std::string_view name) {
  const int side = name == "InceptionV3" ? 75 : 32;
  return backbones::AnyBackbone{backbones::Normalized{
      backbones::network_by_name(name,
                                 {.task = {{3, side, side}, 10}, .width = backbones::narrow_width(name)}),
      normalizations::cifar10}};
}

/// Returns a small untrained defense of a victim.
inline AnyPipeline defended(const backbones::AnyBackbone& victim) {
  return {transforms::EncoderDecoder<>{.image = victim.task.image, .levels = 2, .width = 8}, freeze(victim),
          remaps::Derangement<>{.classes = victim.task.classes}};
}

}  // namespace refine::testing
