#include "tools/refine/stored_network.hpp"

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

#include <refine/backbones/detail/buildable.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/nn/state_dict.hpp>

namespace refine::cli {
namespace {

using backbones::AnyBackbone;
using backbones::Stem;
using backbones::Variant;

/// What the tensors of a network tell of it.
struct Told {
  ImageShape image = {};
  int classes, width;
  std::function<AnyBackbone(const Task&)> make;
  std::string stem = {};  ///< of a residual network, in words
};

/// Reads extents off the tensors of a file, which nobody vouches for.
class Reader {
 public:
  Reader(std::string_view network, const Tensors& tensors, const std::string& from)
      : network_(network), tensors_(tensors), from_(from) {}

  bool has(const std::string& name) const { return tensors_.contains(name); }

  /// \param name of a tensor of so many dimensions \param at one of them
  int extent(const std::string& name, std::int64_t dimensions, std::int64_t at) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.dim() != dimensions || found->second.numel() == 0 ||
        found->second.size(at) > most) {
      refuse(fmt::format("it has no '{}' of that network", name));
    }
    return static_cast<int>(found->second.size(at));
  }

  /// A file that claims extents which its tensors are too few for would have far more memory asked for.
  /// Half will do, so that of a file which lacks a tensor it is said which.
  /// \param network numbers that one of these extents has, or somewhat fewer
  void require_numbers(std::int64_t network) const {
    std::int64_t numbers = 0;
    for (const auto& [name, tensor] : tensors_) numbers += tensor.numel();
    if (numbers >= network / 2) return;
    refuse(fmt::format("its tensors hold {} numbers, too few for a network of their extents, which has {}",
                       numbers, network));
  }

  [[noreturn]] void refuse(
      const std::string& why,
      const std::string& advice = "say another --arch, or export the model as TorchScript") const {
    throw Error("cannot use {} as {}{}: {}; {}", from_, article(network_), network_, why, advice);
  }

  /// Of an extent: products of three and a small number are no overflow.
  static constexpr int most = 1 << 20;

 private:
  std::string_view network_;
  const Tensors& tensors_;
  const std::string& from_;
};

/// How many weights a convolutional network has at width 1. All published extents are in proportion, biases
/// and BatchNorms left out.
struct Growth {
  std::int64_t first;  ///< of its first layer, for one channel
  std::int64_t inner;  ///< of all but the first layer and the last, which grow with the width's square
  std::int64_t last;   ///< of its last layer, for one class
};

/// Channels, width and classes, which the first and the last layer tell.
Told ends(const Reader& read, const char* first, const char* last, const Growth& growth) {
  const int width = read.extent(first, 4, 0), channels = read.extent(first, 4, 1);
  const int classes = read.extent(last, 2, 0);
  read.require_numbers(width * (growth.first * channels + growth.inner * width + growth.last * classes));
  return {.image = {.channels = channels}, .classes = classes, .width = width, .make = {}};
}

/// The stem of a residual network: its kernel is in the tensors, whether max pooling follows is not. It is
/// what is specified; else what the names and the images leave no doubt of; else it is asked for.
Stem stem_by(const Reader& read, Variant variant, const std::optional<Stem>& specified,
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
                "say " + stems);
  }
  // Code with these names has this stem and no other.
  if (variant == Variant::cifar && kernel == 3) return stem_of(variant);
  // torchvision's, for images that are as large as it is made for.
  if (variant == Variant::imagenet && kernel == 7 && backbones::variant_for(image) == Variant::imagenet)
    return stem_of(variant);
  const bool is_sized = image.height != dynamic || image.width != dynamic;
  read.refuse(
      fmt::format("its weights do not tell whether max pooling follows the {0}x{0} stem", kernel),
      (is_sized ? "say " : "say --image with the size it was trained on; if that is small, ") + stems);
}

template <template <Task> typename Network>
Told residual(const Reader& read, std::int64_t inner, std::int64_t last, const std::optional<Stem>& specified,
              const ImageShape& image) {
  const Variant variant = read.has("fc.weight") ? Variant::imagenet : Variant::cifar;
  Told told = variant == Variant::imagenet ? ends(read, "conv1.weight", "fc.weight", {9, inner, last})
                                           : ends(read, "conv1.weight", "linear.weight", {9, inner, last});
  const Stem stem = stem_by(read, variant, specified, image);
  told.make = [variant, stem, width = told.width](const Task& task) {
    return AnyBackbone(Network<dynamic_task>{.task = task, .width = width, .variant = variant, .stem = stem});
  };
  told.stem = fmt::format("{0}x{0} stem, {1} max pooling", stem.kernel, stem.pooling ? "with" : "no");
  return told;
}

Told preact_resnet18(const Reader& read) {
  Told told = ends(read, "conv1.weight", "linear.weight", {.first = 9, .inner = 2724, .last = 8});
  if (read.extent("conv1.weight", 4, 2) != 3 || read.extent("conv1.weight", 4, 3) != 3) {
    read.refuse("its stem is not of 3x3 pixels");
  }
  const bool last_norm = read.has("bn.weight");
  told.make = [last_norm, width = told.width](const Task& task) {
    return AnyBackbone(backbones::PreActResNet18<>{.task = task, .width = width, .last_norm = last_norm});
  };
  return told;
}

/// \param small,large weights between the first and the last layer at width 1, of each form
template <template <Task> typename Network>
Told vgg(const Reader& read, std::int64_t small, std::int64_t large) {
  const Variant variant = read.has("classifier.6.weight") ? Variant::imagenet : Variant::cifar;
  const bool batch_norm = read.has("features.1.weight");  // the second layer is a ReLU otherwise
  Told told =
      variant == Variant::imagenet
          ? ends(read, "features.0.weight", "classifier.6.weight", {.first = 9, .inner = large, .last = 64})
          : ends(read, "features.0.weight", "classifier.weight", {.first = 9, .inner = small, .last = 8});
  told.make = [=, width = told.width](const Task& task) {
    return AnyBackbone(
        Network<dynamic_task>{.task = task, .width = width, .batch_norm = batch_norm, .variant = variant});
  };
  return told;
}

template <typename Network>
Told by_ends(const Reader& read, const char* first, const char* last, const Growth& growth) {
  Told told = ends(read, first, last, growth);
  told.make = [width = told.width](const Task& task) {
    return AnyBackbone(Network{.task = task, .width = width});
  };
  return told;
}

/// The height and width of images that a ViT cuts into so many patches: what is said, else the images' own
/// where they fit, else those of a square.
ImageShape cut_images(const Reader& read, int patch, int patches, const ImageShape& said,
                      const ImageShape& images) {
  const auto fits = [&](int height, int width) {
    return height > 0 && width > 0 && height % patch == 0 && width % patch == 0 &&
           std::int64_t{height / patch} * (width / patch) == patches;
  };
  const int side = patch * static_cast<int>(std::lround(std::sqrt(patches)));
  for (const auto& [height, width] : {std::array{images.height, images.width}, std::array{side, side}}) {
    const ImageShape likely = {.height = merged(said.height, height), .width = merged(said.width, width)};
    if (fits(likely.height, likely.width)) return likely;
  }
  int rows = std::max(1, static_cast<int>(std::sqrt(patches)));
  while (patches % rows != 0) --rows;
  const ImageShape tried = merged(said, images);
  Message shape;
  shape << tried;
  const bool known = tried.height != dynamic && tried.width != dynamic;
  read.refuse(
      fmt::format("it has {} patches of {}x{} pixels, {}", patches, patch, patch,
                  known ? fmt::format("images of {} have not", shape.view()) : "which make no square"),
      fmt::format("say --image with the height and width that it takes, as {}x{}x{}",
                  merged(said.channels, 3), patch * rows, std::int64_t{patch} * (patches / rows)));
}

/// \param said of the images: the tensors tell only how many patches there are, and of how many numbers
Told vit(const Reader& read, const ImageShape& said, const ImageShape& images) {
  const int channels = merged(said.channels, 3);
  const int width = read.extent("cls_token", 3, 2);
  const int inner = read.extent("transformer.layers.0.0.fn.to_qkv.weight", 2, 0) / 3;
  const int mlp = read.extent("transformer.layers.0.1.fn.net.0.weight", 2, 0);
  const int numbers = read.extent("to_patch_embedding.to_patch_tokens.1.weight", 1, 0);
  const int patches = read.extent("pos_embedding", 3, 1) - 1;  // the other token is the class's
  const int classes = read.extent("mlp_head.1.weight", 2, 0);
  int depth = 1;
  while (depth < Reader::most && read.has(fmt::format("transformer.layers.{}.0.norm.weight", depth))) ++depth;
  const std::int64_t layer = 4 * std::int64_t{inner} + 2 * std::int64_t{mlp};
  if (patches < 1) read.refuse("its 'pos_embedding' is of no patch");
  read.require_numbers((depth * layer + numbers + patches + classes) * width);
  const int patch = static_cast<int>(std::lround(std::sqrt(numbers / 5 / channels)));
  if (5 * channels * patch * patch != numbers) {
    read.refuse(
        fmt::format("its patches have {} numbers, which no square of {} channels and its four shifted "
                    "copies have",
                    numbers, channels),
        "say --image with the channels that it takes, as 1x28x28, or another --arch");
  }
  constexpr int heads = 8;  // as published; no tensor tells it
  if (inner < heads || inner % heads != 0) {
    read.refuse(fmt::format("its {} heads share {} numbers, which do not go evenly into them", heads, inner));
  }
  const ImageShape cut = cut_images(read, patch, patches, said, images);
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

Told told_by(std::string_view network, const Reader& read, const ImageShape& said, const ImageShape& images,
             const std::optional<Stem>& stem) {
  using namespace backbones;
  const ImageShape image = merged(said, images);
  if (network == "ResNet18") return residual<ResNet18>(read, /*inner=*/2724, /*last=*/8, stem, image);
  if (network == "ResNet50") return residual<ResNet50>(read, /*inner=*/5724, /*last=*/32, stem, image);
  if (network == "PreActResNet18") return preact_resnet18(read);
  if (network == "VGG16") return vgg<Vgg16>(read, /*small=*/3591, /*large=*/32775);
  if (network == "VGG19") return vgg<Vgg19>(read, /*small=*/4887, /*large=*/34071);
  if (network == "DenseNet121") {
    return by_ends<DenseNet121<>>(read, "features.conv0.weight", "classifier.weight",
                                  {.first = 49, .inner = 1675, .last = 16});
  }
  if (network == "InceptionV3") {
    return by_ends<InceptionV3<>>(read, "Conv2d_1a_3x3.conv.weight", "fc.weight",
                                  {.first = 9, .inner = 21240, .last = 64});
  }
  if (network == "ViT") return vit(read, said, images);
  read.refuse("the extents of that network are not read from tensors");
}

/// torchvision's own file of a DenseNet is older than the names of its layers' children: `norm.1.weight` is
/// `norm1.weight` since.
void rename_old_layers(Tensors& tensors) {
  std::vector<std::pair<std::string, std::string>> renamed;
  for (const auto& [name, tensor] : tensors) {
    const auto layer = name.find(".denselayer");
    if (layer == std::string::npos) continue;
    for (const std::string_view child : {".norm.1.", ".norm.2.", ".conv.1.", ".conv.2."}) {
      const auto at = name.find(child, layer);
      if (at == std::string::npos) continue;
      std::string now = name;
      now.erase(at + std::string_view(".norm").size(), 1);
      renamed.emplace_back(name, std::move(now));
      break;
    }
  }
  for (const auto& [name, now] : renamed) {
    if (tensors.contains(now)) continue;  // then the old one is one too many, and is refused as that
    auto node = tensors.extract(name);
    node.key() = now;
    tensors.insert(std::move(node));
  }
}

}  // namespace

namespace {

/// With the names of the network itself, where all of them begin with what a wrapper calls it.
Tensors unwrapped(Tensors tensors) {
  Tensors inner = tensors;
  while (network_of(inner).empty() && formats::strip_shared_prefix(inner)) continue;
  return network_of(inner).empty() ? tensors : inner;
}

}  // namespace

std::string_view network_of(const Tensors& tensors) {
  const auto has = [&](const char* name) { return tensors.contains(name); };
  if (has("conv1.weight") && has("layer4.1.conv2.weight") && (has("fc.weight") || has("linear.weight"))) {
    // With pre-activation there is no BatchNorm behind the stem, nor in a shortcut.
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

Stem parse_stem(const std::string& text) {
  for (const int kernel : {3, 7}) {
    for (const bool pooling : {false, true}) {
      if (text == fmt::format("{0}x{0}{1}", kernel, pooling ? "-pool" : "")) return {kernel, pooling};
    }
  }
  throw Error("--stem must be 3x3, 3x3-pool, 7x7 or 7x7-pool, got '{}'", text);
}

StoredNetwork stored_network(std::string_view name, Tensors tensors, const ImageShape& said,
                             const ImageShape& images, const std::string& from,
                             const std::optional<Stem>& stem) {
  const std::string_view network = backbones::canonical_network_name(name);
  tensors = unwrapped(std::move(tensors));
  if (network == "InceptionV3") {  // a second classifier, which torchvision trains with the first
    std::erase_if(tensors, [](const auto& entry) { return entry.first.starts_with("AuxLogits."); });
  }
  if (network == "DenseNet121") rename_old_layers(tensors);
  const Reader reader(network, tensors, from);
  if (stem && network != "ResNet18" && network != "ResNet50") {
    throw Error("--stem: {}{} has no other stem than its own; leave it out", article(network), network);
  }
  const auto actual = network_of(tensors);
  if (!actual.empty() && actual != network) {
    throw Error("cannot use {} as {}{}: its tensors look like those of {}{}; say --arch {}", from,
                article(network), network, article(actual), actual, actual);
  }
  const Told told = told_by(network, reader, said, images, stem);
  if (!compatible(said.channels, told.image.channels)) {
    throw Error(
        "cannot use {} as {}{} for images of {} channels: its weights are for {}; say another --image", from,
        article(network), network, said.channels, told.image.channels);
  }
  const ImageShape shape = merged(said, merged(told.image, images));
  AnyBackbone backbone = told.make({shape, told.classes});
  nn::load_state_dict(*backbone.module, tensors, from);
  backbone.module->eval();
  return {std::move(backbone), told.width, told.stem};
}

}  // namespace refine::cli
