#include "tools/refine/transform.hpp"

#include <fmt/core.h>

#include <algorithm>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/nn/device.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/transforms/unet.hpp>

namespace refine::cli {

namespace {

struct Kind {
  const char* name;
  const char* first;  ///< a tensor of its own, with as many kernels as the width
  const char* level;  ///< a tensor of each level, whose number, from 1, is left open
  int levels;         ///< usual ones
  int width;          ///< usual one with CUDA and images of 64 pixels at most
  transforms::AnyTransform (*make)(const ImageShape&, int levels, int width, transforms::OutputActivation,
                                   std::uint64_t seed);
};

template <typename T>
transforms::AnyTransform made(const ImageShape& image, int levels, int width,
                              transforms::OutputActivation squash, std::uint64_t seed) {
  return T{.image = image, .levels = levels, .width = width, .squash = squash, .seed = seed};
}

const Kind kinds[] = {
    {"UNet", "inc.double_conv.0.weight", "down{}.maxpool_conv.1.double_conv.0.weight", 4, 64,
     &made<transforms::UNet<>>},
    {"EncoderDecoder", "encoder1_1.conv.weight", "encoder{}_1.conv.weight", 3, 112,
     &made<transforms::EncoderDecoder<>>},
};

}  // namespace

void TransformOptions::add_to(CLI::App& command) {
  command
      .add_option("--transform", name,
                  "UNet, as published; EncoderDecoder, which has no skip connections and costs a quarter")
      ->check(CLI::IsMember({"UNet", "EncoderDecoder"}))
      ->capture_default_str();
  command
      .add_option("--levels", levels,
                  "how often the transform halves its images; left out: UNet 4, EncoderDecoder 3")
      ->check(CLI::Range(1, 8));
  command
      .add_option("--width", width,
                  "channels of the transform's first convolutions; left out: UNet 64 and EncoderDecoder 112 "
                  "with CUDA, a quarter of it without, half of that for images above 64 pixels")
      ->check(CLI::Range(2, 4096));
}

transforms::AnyTransform TransformOptions::make(const ImageShape& image, std::uint64_t seed) const {
  const Kind& kind = *std::ranges::find(kinds, name, [](const Kind& k) { return std::string(k.name); });
  const int shrunk =
      (default_device().is_cuda() ? 1 : 4) * (std::max(image.height, image.width) > 64 ? 2 : 1);
  return kind.make(image, levels > 0 ? levels : kind.levels, width > 0 ? width : kind.width / shrunk,
                   transforms::OutputActivation::sigmoid, seed);
}

transforms::AnyTransform transform_of(const std::map<std::string, at::Tensor>& tensors,
                                      const std::string& prefix, const ImageShape& image,
                                      transforms::OutputActivation squash,
                                      const std::filesystem::path& path) {
  for (const Kind& kind : kinds) {
    const auto first = tensors.find(prefix + kind.first);
    if (first == tensors.end() || first->second.dim() != 4) continue;
    int levels = 0;
    while (tensors.contains(prefix + fmt::format(fmt::runtime(kind.level), levels + 1))) ++levels;
    if (levels > 0) {
      return kind.make(image, levels, static_cast<int>(first->second.size(0)), squash, default_seed);
    }
  }
  throw Error(
      "cannot use {} as a transform: it has no 'inc.double_conv.0.weight' and 'down1' of a U-Net, nor "
      "'encoder1_1' of an EncoderDecoder; give a defense of refine or a U-Net of the reference",
      path.string());
}

}  // namespace refine::cli
