#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <string_view>

#include <refine/backbones/any_backbone.hpp>
#include <refine/core/image_shape.hpp>

namespace refine::cli {

using Tensors = std::map<std::string, at::Tensor>;

/// The name of the network that has tensors of these names, as far as a few of them tell; empty where it is
/// none of ours.
std::string_view network_of(const Tensors& tensors);

/// A network with its weights.
struct StoredNetwork {
  backbones::AnyBackbone backbone;
  int width;
};

/// The network `name`, with the form, the width and the other extents that its tensors tell.
/// torchvision's own files are read as they are, with the names and without the counts of their time. A
/// ViT's tensors leave open which sides its patches make: those of `images` where they fit, else a square's.
/// \param said of the images, by who knows the file; what it leaves open, and the tensors too, `images` tells
/// \param from the file, for messages
/// \throws Error when the tensors are of another network, or disagree with what is said
StoredNetwork stored_network(std::string_view name, Tensors tensors, const ImageShape& said,
                             const ImageShape& images, const std::string& from);

}  // namespace refine::cli
