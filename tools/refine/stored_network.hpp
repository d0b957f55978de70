#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/task.hpp>

namespace refine::cli {

using Tensors = std::map<std::string, at::Tensor>;

/// The name of the network that has tensors of these names, as far as a few of them tell; empty where it is
/// none of ours.
std::string_view network_of(const Tensors& tensors);

/// A network with its weights.
struct StoredNetwork {
  backbones::AnyBackbone backbone;
  int width;
  std::string stem = {};  ///< of a ResNet, in words: "7x7 stem, with max pooling"
};

/// Reads a `--stem`: 3x3, 3x3-pool, 7x7 or 7x7-pool. \throws Error when it is none of them
backbones::Stem parse_stem(const std::string& text);

/// The network `name`, with the form, the width and the other extents that its tensors tell.
/// torchvision's own files are read as they are, with the names and without the counts of their time. A
/// ViT's tensors leave open which sides its patches make: those of `images` where they fit, else a square's.
/// \param said of the images, by who knows the file; what it leaves open, and the tensors too, `images` tells
/// \param from the file, for messages
/// \param stem of a ResNet. No tensor tells whether max pooling follows the first convolution: it must be
///   specified, except for the small form (none) and torchvision's with images of more than 64 pixels (pooling)
/// \throws Error when the tensors are of another network, disagree with what is said, or leave a stem open
StoredNetwork stored_network(std::string_view name, Tensors tensors, const ImageShape& said,
                             const ImageShape& images, const std::string& from,
                             const std::optional<backbones::Stem>& stem = std::nullopt);

}  // namespace refine::cli
