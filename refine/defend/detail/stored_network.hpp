#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/core/task.hpp>

namespace refine::detail {

/// Tensors by their names in a state dict.
using Tensors = std::map<std::string, at::Tensor>;

/// A network with the weights of a file.
struct StoredNetwork {
  backbones::AnyBackbone backbone;  ///< in evaluation mode
  int width;                        ///< channels of its first layer; of a ViT, numbers of a token
  std::string stem = {};            ///< of a ResNet, in words: "7x7 stem, with max pooling"
};

/// Returns the name of the network that has tensors of these names. Empty if no known network has
/// them.
std::string_view network_of(const Tensors& tensors);

/// Removes the prefix that wrappers put before all names. Returns the tensors unchanged if no known
/// network has the names without it.
Tensors strip_wrappers(Tensors tensors);

/// Builds the network `name` and loads its tensors. Its variant, width and other extents are read
/// from the shapes of the tensors. torchvision's files are accepted with the tensor names of their
/// time.
///
/// \param specified the image shape according to the caller or the file; open extents are taken
///   from the tensors, then from `images`
/// \param images the shape of the images at hand. It decides what the tensors leave open, such as
///   which sides the patches of a ViT come from; if it does not fit, a square is assumed.
/// \param file the name of the file, for messages
/// \param stem of a ResNet. No tensor tells whether max pooling follows the first convolution, so
///   it must be specified, except for the CIFAR variant (no pooling) and torchvision's with images
///   of more than 64 pixels (pooling).
/// \throws Error if the tensors belong to another network, contradict the arguments, or leave the
///   stem open
StoredNetwork stored_network(std::string_view name, Tensors tensors, const ImageShape& specified,
                             const ImageShape& images, const std::string& file,
                             const std::optional<backbones::Stem>& stem = std::nullopt);

}  // namespace refine::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/stored_network.ipp>
#endif
