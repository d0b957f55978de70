#pragma once

#include <refine/defend/detail/stored_network.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/backbones/zoo.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/nn/module.hpp>

/// Reads the extents of a network from the shapes of its tensors.
namespace refine::detail::extents {

using backbones::AnyBackbone;
using backbones::Stem;
using backbones::Variant;

/// A network's extents, and how to build it.
struct Plan {
  ImageShape image = {};
  int classes, width;
  std::function<AnyBackbone(const Task&)> make;
  std::string stem = {};  ///< of a residual network, in words
};

/// Reads extents from the tensors of a file that may be hostile.
class Reader {
 public:
  Reader(std::string_view network, const Tensors& tensors, const std::string& file)
      : network_(network), tensors_(tensors), file_(file) {}

  bool has(const std::string& name) const { return tensors_.contains(name); }

  /// Returns the size of one dimension of the tensor `name`, which must have `dimensions`
  /// dimensions.
  int extent(const std::string& name, std::int64_t dimensions, std::int64_t dimension) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.dim() != dimensions || found->second.numel() == 0 ||
        found->second.size(dimension) > max_extent) {
      refuse(fmt::format("it has no '{}' of that network", name));
    }
    return static_cast<int>(found->second.size(dimension));
  }

  /// Refuses a file whose tensors are too few for the extents that it claims: the network would
  /// take far more memory than the file. Half of them suffices, so that a file which lacks one
  /// tensor gets a message that names it.
  /// \param network numbers in a network of these extents, or somewhat fewer
  void require_numbers(std::int64_t network) const {
    std::int64_t numbers = 0;
    for (const auto& [name, tensor] : tensors_) numbers += tensor.numel();
    if (numbers >= network / 2) return;
    refuse(fmt::format("its tensors hold {} numbers, too few for a network of their extents, which has {}",
                       numbers, network));
  }

  [[noreturn]] void refuse(
      const std::string& why,
      const std::string& advice = "specify another --arch, or export the model as TorchScript") const {
    throw Error("cannot use {} as {}{}: {}; {}", file_, text::article(network_), network_, why, advice);
  }

  /// The largest extent. Products of three extents and a small number do not overflow.
  static constexpr int max_extent = 1 << 20;

 private:
  std::string_view network_;
  const Tensors& tensors_;
  const std::string& file_;
};

/// The number of weights of a convolutional network at width 1, without biases and BatchNorm. Other
/// widths are in proportion.
struct Growth {
  std::int64_t first;  ///< in its first layer, a channel
  std::int64_t inner;  ///< in all layers but the first and the last; they grow with the square of the width
  std::int64_t last;   ///< in its last layer, a class
};

/// Reads channels, width and classes from the first and the last layer.
inline Plan plan_of_ends(const Reader& read, const char* first, const char* last, const Growth& growth) {
  const int width = read.extent(first, 4, 0), channels = read.extent(first, 4, 1);
  const int classes = read.extent(last, 2, 0);
  read.require_numbers(width * (growth.first * channels + growth.inner * width + growth.last * classes));
  return {.image = {.channels = channels}, .classes = classes, .width = width, .make = {}};
}

/// Returns the stem of a residual network. The kernel's size is in the tensors, whether max pooling
/// follows is not: that is taken from `specified`, or from the names and the image size if these
/// leave no doubt.
inline Stem resolve_stem(const Reader& read, Variant variant, const std::optional<Stem>& specified,
                         const ImageShape& image) {
  const int kernel = read.extent("conv1.weight", 4, 2);
  if (kernel != read.extent("conv1.weight", 4, 3) || (kernel != 3 && kernel != 7)) {
    read.refuse(fmt::format("its stem is of {}x{} pixels, expected 3x3 or 7x7", kernel,
                            read.extent("conv1.weight", 4, 3)));
  }
  const std::string stems = fmt::format("--stem {0}x{0}-pool, or --stem {0}x{0} for none", kernel);
  if (specified) {
    if (specified->kernel == kernel) return *specified;
    read.refuse(fmt::format("its stem is of {0}x{0} pixels, but --stem {1}x{1} was specified", kernel,
                            specified->kernel),
                "specify " + stems);
  }
  // Code with these names has no other stem.
  if (variant == Variant::cifar && kernel == 3) return stem_of(variant);
  // torchvision's stem, for images as large as it was designed for.
  if (variant == Variant::imagenet && kernel == 7 && backbones::variant_for(image) == Variant::imagenet)
    return stem_of(variant);
  const bool is_sized = image.height != dynamic || image.width != dynamic;
  read.refuse(
      fmt::format("its weights do not tell whether max pooling follows the {0}x{0} stem", kernel),
      (is_sized ? "specify " : "specify --image with the size it was trained on; if that is small, ") +
          stems);
}

template <template <Task> typename Network>
Plan residual(const Reader& read, std::int64_t inner, std::int64_t last, const std::optional<Stem>& specified,
              const ImageShape& image) {
  const Variant variant = read.has("fc.weight") ? Variant::imagenet : Variant::cifar;
  Plan plan = variant == Variant::imagenet
                  ? plan_of_ends(read, "conv1.weight", "fc.weight", {9, inner, last})
                  : plan_of_ends(read, "conv1.weight", "linear.weight", {9, inner, last});
  const Stem stem = resolve_stem(read, variant, specified, image);
  plan.make = [variant, stem, width = plan.width](const Task& task) {
    return AnyBackbone(Network<dynamic_task>{.task = task, .width = width, .variant = variant, .stem = stem});
  };
  plan.stem = fmt::format("{0}x{0} stem, {1} max pooling", stem.kernel, stem.pooling ? "with" : "no");
  return plan;
}

inline Plan preact_resnet18(const Reader& read) {
  Plan plan = plan_of_ends(read, "conv1.weight", "linear.weight", {.first = 9, .inner = 2724, .last = 8});
  if (read.extent("conv1.weight", 4, 2) != 3 || read.extent("conv1.weight", 4, 3) != 3) {
    read.refuse("its stem is not of 3x3 pixels");
  }
  const bool last_norm = read.has("bn.weight");
  plan.make = [last_norm, width = plan.width](const Task& task) {
    return AnyBackbone(backbones::PreActResNet18<>{.task = task, .width = width, .last_norm = last_norm});
  };
  return plan;
}

/// \param small,large weights between the first and the last layer at width 1, of the CIFAR and the
///   ImageNet variant
template <template <Task> typename Network>
Plan vgg(const Reader& read, std::int64_t small, std::int64_t large) {
  const Variant variant = read.has("classifier.6.weight") ? Variant::imagenet : Variant::cifar;
  const bool batch_norm = read.has("features.1.weight");  // the second layer is a ReLU otherwise
  Plan plan = variant == Variant::imagenet ? plan_of_ends(read, "features.0.weight", "classifier.6.weight",
                                                          {.first = 9, .inner = large, .last = 64})
                                           : plan_of_ends(read, "features.0.weight", "classifier.weight",
                                                          {.first = 9, .inner = small, .last = 8});
  plan.make = [=, width = plan.width](const Task& task) {
    return AnyBackbone(
        Network<dynamic_task>{.task = task, .width = width, .batch_norm = batch_norm, .variant = variant});
  };
  return plan;
}

template <typename Network>
Plan network_by_ends(const Reader& read, const char* first, const char* last, const Growth& growth) {
  Plan plan = plan_of_ends(read, first, last, growth);
  plan.make = [width = plan.width](const Task& task) {
    return AnyBackbone(Network{.task = task, .width = width});
  };
  return plan;
}

/// Returns the height and width of images that a ViT cuts into `patches` patches: those of
/// `specified`, else those of `images` if they fit, else those of a square.
inline ImageShape patched_image(const Reader& read, int patch, int patches, const ImageShape& specified,
                                const ImageShape& images) {
  const auto fits = [&](int height, int width) {
    return height > 0 && width > 0 && height % patch == 0 && width % patch == 0 &&
           std::int64_t{height / patch} * (width / patch) == patches;
  };
  const int side = patch * static_cast<int>(std::lround(std::sqrt(patches)));
  for (const auto& [height, width] : {std::array{images.height, images.width}, std::array{side, side}}) {
    const ImageShape likely = {.height = merged(specified.height, height),
                               .width = merged(specified.width, width)};
    if (fits(likely.height, likely.width)) return likely;
  }
  int rows = std::max(1, static_cast<int>(std::sqrt(patches)));
  while (patches % rows != 0) --rows;
  const ImageShape tried = merged(specified, images);
  const bool is_sized = tried.height != dynamic && tried.width != dynamic;
  read.refuse(
      fmt::format("it has {} patches of {}x{} pixels, {}", patches, patch, patch,
                  is_sized ? fmt::format("which do not make up images of {}", tried)
                           : "which do not make up a square"),
      fmt::format("specify --image with the height and width of its images, as {}x{}x{}",
                  merged(specified.channels, 3), patch * rows, std::int64_t{patch} * (patches / rows)));
}

/// \param specified shape of the images; the tensors only have the number of patches, and of
///   numbers in each
inline Plan vit(const Reader& read, const ImageShape& specified, const ImageShape& images) {
  const int channels = merged(specified.channels, 3);
  const int width = read.extent("cls_token", 3, 2);
  const int inner = read.extent("transformer.layers.0.0.fn.to_qkv.weight", 2, 0) / 3;
  const int mlp = read.extent("transformer.layers.0.1.fn.net.0.weight", 2, 0);
  const int numbers = read.extent("to_patch_embedding.to_patch_tokens.1.weight", 1, 0);
  const int patches = read.extent("pos_embedding", 3, 1) - 1;  // the other token is the class's
  const int classes = read.extent("mlp_head.1.weight", 2, 0);
  int depth = 1;
  while (depth < Reader::max_extent && read.has(fmt::format("transformer.layers.{}.0.norm.weight", depth))) {
    ++depth;
  }
  const std::int64_t layer = 4 * std::int64_t{inner} + 2 * std::int64_t{mlp};
  if (patches < 1) read.refuse("its 'pos_embedding' has no patches");
  read.require_numbers((depth * layer + numbers + patches + classes) * width);
  const int patch = static_cast<int>(std::lround(std::sqrt(numbers / 5 / channels)));
  if (5 * channels * patch * patch != numbers) {
    read.refuse(
        fmt::format("its patches have {} numbers, which do not make up a square of {} channels and its four "
                    "shifted copies",
                    numbers, channels),
        "specify --image with the channels of its images, as 1x28x28, or another --arch");
  }
  constexpr int heads = 8;  // as in the authors' code; no tensor tells it
  if (inner < heads || inner % heads != 0) {
    read.refuse(fmt::format("its attention has {} numbers, expected a multiple of {}, one share a head",
                            inner, heads));
  }
  const ImageShape cut = patched_image(read, patch, patches, specified, images);
  return {.image = {channels, cut.height, cut.width},
          .classes = classes,
          .width = width,
          .make = [=](const Task& task) {
            return AnyBackbone(backbones::ViT<>{.task = task,
                                                .patch = patch,
                                                .width = width,
                                                .depth = depth,
                                                .heads = heads,
                                                .head_width = inner / heads,
                                                .mlp = mlp});
          }};
}

inline Plan plan_of(std::string_view network, const Reader& read, const ImageShape& specified,
                    const ImageShape& images, const std::optional<Stem>& stem) {
  using namespace backbones;
  const ImageShape image = merged(specified, images);
  if (network == "ResNet18") return residual<ResNet18>(read, /*inner=*/2724, /*last=*/8, stem, image);
  if (network == "ResNet50") return residual<ResNet50>(read, /*inner=*/5724, /*last=*/32, stem, image);
  if (network == "PreActResNet18") return preact_resnet18(read);
  if (network == "VGG16") return vgg<Vgg16>(read, /*small=*/3591, /*large=*/32775);
  if (network == "VGG19") return vgg<Vgg19>(read, /*small=*/4887, /*large=*/34071);
  if (network == "DenseNet121") {
    return network_by_ends<DenseNet121<>>(read, "features.conv0.weight", "classifier.weight",
                                          {.first = 49, .inner = 1675, .last = 16});
  }
  if (network == "InceptionV3") {
    return network_by_ends<InceptionV3<>>(read, "Conv2d_1a_3x3.conv.weight", "fc.weight",
                                          {.first = 9, .inner = 21240, .last = 64});
  }
  if (network == "ViT") return vit(read, specified, images);
  read.refuse("the extents of that network cannot be read from tensors");
}

/// Renames the layers of a DenseNet in torchvision's file, which is older than today's names:
/// `norm.1.weight` to `norm1.weight`.
inline void rename_old_layers(Tensors& tensors) {
  std::vector<std::pair<std::string, std::string>> renames;
  for (const auto& [name, tensor] : tensors) {
    const auto layer = name.find(".denselayer");
    if (layer == std::string::npos) continue;
    for (const std::string_view child : {".norm.1.", ".norm.2.", ".conv.1.", ".conv.2."}) {
      const auto place = name.find(child, layer);
      if (place == std::string::npos) continue;
      std::string new_name = name;
      new_name.erase(place + std::string_view(".norm").size(), 1);
      renames.emplace_back(name, std::move(new_name));
      break;
    }
  }
  for (const auto& [name, new_name] : renames) {
    if (tensors.contains(new_name)) continue;  // the old name is then refused as an unexpected tensor
    auto node = tensors.extract(name);
    node.key() = new_name;
    tensors.insert(std::move(node));
  }
}

}  // namespace refine::detail::extents

namespace refine::detail {

REFINE_INLINE std::string_view network_of(const Tensors& tensors) {
  const auto has = [&](const char* name) { return tensors.contains(name); };
  if (has("conv1.weight") && has("layer4.1.conv2.weight") && (has("fc.weight") || has("linear.weight"))) {
    // With pre-activation, neither the stem nor a shortcut has BatchNorm.
    if (!has("bn1.weight") && !has("layer2.0.shortcut.1.weight") && !has("layer2.0.downsample.1.weight")) {
      const bool is_18 = !has("layer1.0.conv3.weight") && !has("layer1.2.conv1.weight");
      return is_18 && has("layer2.0.shortcut.0.weight") && has("linear.weight") ? "PreActResNet18"
                                                                                : std::string_view();
    }
    if (!has("layer1.0.conv3.weight") && !has("layer1.2.conv1.weight")) return "ResNet18";
    if (has("layer1.0.conv3.weight") && has("layer3.5.conv1.weight") && !has("layer3.6.conv1.weight")) {
      return "ResNet50";
    }
    return {};
  }
  if (has("features.0.weight") && (has("classifier.weight") || has("classifier.6.weight"))) {
    const bool batch_norm = has("features.1.weight");
    if (has(batch_norm ? "features.40.weight" : "features.28.weight") &&
        !has(batch_norm ? "features.43.weight" : "features.30.weight")) {
      return "VGG16";
    }
    if (has(batch_norm ? "features.49.weight" : "features.34.weight") &&
        !has(batch_norm ? "features.52.weight" : "features.36.weight")) {
      return "VGG19";
    }
    return {};
  }
  for (const char* child : {"conv1.weight", "conv.1.weight"}) {
    const auto has_layer = [&](int layer) {
      return tensors.contains(fmt::format("features.denseblock3.denselayer{}.{}", layer, child));
    };
    if (has_layer(24) && !has_layer(25)) return "DenseNet121";
  }
  if (has("Conv2d_1a_3x3.conv.weight") && has("Mixed_7c.branch1x1.conv.weight")) return "InceptionV3";
  if (has("to_patch_embedding.to_patch_tokens.1.weight") && has("cls_token")) return "ViT";
  return {};
}

REFINE_INLINE Tensors strip_wrappers(Tensors tensors) {
  Tensors inner = tensors;
  while (network_of(inner).empty() && formats::strip_shared_prefix(inner)) continue;
  return network_of(inner).empty() ? tensors : inner;
}

REFINE_INLINE StoredNetwork stored_network(std::string_view name, Tensors tensors,
                                           const ImageShape& specified, const ImageShape& images,
                                           const std::string& file,
                                           const std::optional<backbones::Stem>& stem) {
  const std::string_view network = backbones::canonical_network_name(name);
  tensors = strip_wrappers(std::move(tensors));
  for (const auto& [weight, tensor] : tensors) {
    const bool is_split =
        weight.find("parametrizations.") != std::string::npos || weight.ends_with("_orig") ||
        (weight.ends_with("_g") && tensors.contains(weight.substr(0, weight.size() - 1) + "v"));
    if (!is_split) continue;
    throw Error(
        "cannot use {} as {}{}: '{}' is a part of a weight that weight_norm, spectral_norm or pruning has split; save it after "
        "torch.nn.utils.parametrize.remove_parametrizations (remove_weight_norm, remove_spectral_norm, prune.remove), or export "
        "the model as TorchScript",
        file, text::article(network), network, weight);
  }
  if (network == "InceptionV3") {  // a second classifier, which torchvision trains with the first
    std::erase_if(tensors, [](const auto& entry) { return entry.first.starts_with("AuxLogits."); });
  }
  if (network == "DenseNet121") extents::rename_old_layers(tensors);
  const extents::Reader reader(network, tensors, file);
  if (stem && network != "ResNet18" && network != "ResNet50") {
    throw Error("--stem: {}{} has a fixed stem; leave it out", text::article(network), network);
  }
  const auto actual = network_of(tensors);
  if (!actual.empty() && actual != network) {
    throw Error("cannot use {} as {}{}: its tensors look like those of {}{}; specify --arch {}", file,
                text::article(network), network, text::article(actual), actual, actual);
  }
  const extents::Plan plan = extents::plan_of(network, reader, specified, images, stem);
  if (!compatible(specified.channels, plan.image.channels)) {
    throw Error(
        "cannot use {} as {}{} for images of {} channels: its weights are for {}; specify another --image",
        file, text::article(network), network, specified.channels, plan.image.channels);
  }
  const ImageShape shape = merged(specified, merged(plan.image, images));
  backbones::AnyBackbone backbone = plan.make({shape, plan.classes});
  nn::load_state_dict(*backbone.module, tensors, file);
  backbone.module->eval();
  return {std::move(backbone), plan.width, plan.stem};
}

}  // namespace refine::detail
