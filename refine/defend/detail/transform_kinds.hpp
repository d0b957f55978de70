#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/core.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/transforms/any_transform.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/transforms/transform.hpp>
#include <refine/transforms/unet.hpp>

namespace refine::detail {

/// A transform that is known by a name and by the names of its tensors.
struct TransformKind {
  const char* name;
  const char* first;  ///< a tensor that only this kind has; its first extent is the width
  const char* level;  ///< a tensor of each level, with {} for the level's number, from 1
  int levels;         ///< by default
  int width;          ///< by default with CUDA and images of 64 pixels at most
  transforms::AnyTransform (*make)(const ImageShape&, int levels, int width, transforms::OutputActivation,
                                   std::uint64_t seed);
};

/// Makes a transform of type T behind the type-erased signature.
template <typename T>
transforms::AnyTransform make_transform_of(const ImageShape& image, int levels, int width,
                                           transforms::OutputActivation activation, std::uint64_t seed) {
  return T{.image = image, .levels = levels, .width = width, .activation = activation, .seed = seed};
}

inline constexpr std::array transform_kinds = {
    TransformKind{"UNet", "inc.double_conv.0.weight", "down{}.maxpool_conv.1.double_conv.0.weight", 4, 64,
                  &make_transform_of<transforms::UNet<>>},
    TransformKind{"EncoderDecoder", "encoder1_1.conv.weight", "encoder{}_1.conv.weight", 3, 112,
                  &make_transform_of<transforms::EncoderDecoder<>>},
};

/// Builds the transform that has tensors of these names, with random weights. Its levels and width
/// are read from them.
/// \param prefix of the names
/// \param file the name of the file, for messages
/// \throws Error if no transform has such tensors
inline transforms::AnyTransform transform_of(const std::map<std::string, at::Tensor>& tensors,
                                             const std::string& prefix, const ImageShape& image,
                                             transforms::OutputActivation activation,
                                             const std::filesystem::path& file) {
  for (const TransformKind& kind : transform_kinds) {
    const auto first = tensors.find(prefix + kind.first);
    if (first == tensors.end() || first->second.dim() != 4) continue;
    int levels = 0;
    while (tensors.contains(prefix + fmt::format(fmt::runtime(kind.level), levels + 1))) ++levels;
    if (levels > 0) {
      return kind.make(image, levels, static_cast<int>(first->second.size(0)), activation, default_seed);
    }
  }
  throw Error(
      "cannot use {} as a transform: it has neither 'inc.double_conv.0.weight' and 'down1' of a U-Net nor "
      "'encoder1_1' of an EncoderDecoder; give a defense of refine or a U-Net of the authors' code",
      file.string());
}

}  // namespace refine::detail
