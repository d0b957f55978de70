#include "tools/refine/stored_network.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>

#include <refine/artifacts/state_dict.hpp>
#include <refine/backbones/any_network.hpp>
#include <refine/backbones/buildable.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>

namespace refine::cli {
namespace {

using backbones::AnyBackbone;
using backbones::Form;
using backbones::detail::article;

/// What the tensors of a network tell of it.
struct Told {
  ImageShape image = {};
  int classes, width;
  std::function<AnyBackbone(const Task&)> make;
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

  /// A file that claims a width which its tensors are too few for would have far more memory asked for.
  void require_numbers(std::int64_t least) const {
    std::int64_t numbers = 0;
    for (const auto& [name, tensor] : tensors_) numbers += tensor.numel();
    if (numbers < least) refuse(fmt::format("its tensors hold {} numbers, too few for that", numbers));
  }

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error("cannot use {} as {}{}: {}; say another --arch, or export the model as TorchScript", from_,
                article(network_), network_, why);
  }

 private:
  static constexpr std::int64_t most = 1 << 20;

  std::string_view network_;
  const Tensors& tensors_;
  const std::string& from_;
};

template <template <Task> typename Network>
Told residual(const Reader& read) {
  const Form form = read.has("fc.weight") ? Form::large : Form::small;
  const int width = read.extent("conv1.weight", 4, 0);
  read.require_numbers(std::int64_t{1000} * width * width);
  return {.image = {.channels = read.extent("conv1.weight", 4, 1)},
          .classes = read.extent(form == Form::large ? "fc.weight" : "linear.weight", 2, 0),
          .width = width,
          .make = [=](const Task& task) {
            return AnyBackbone(Network<dynamic_task>{.task = task, .width = width, .form = form});
          }};
}

Told vgg16(const Reader& read) {
  const Form form = read.has("classifier.6.weight") ? Form::large : Form::small;
  const bool batch_norm = read.has("features.1.weight");  // the second layer is a ReLU otherwise
  const int width = read.extent("features.0.weight", 4, 0);
  read.require_numbers(std::int64_t{1000} * width * width);
  return {.image = {.channels = read.extent("features.0.weight", 4, 1)},
          .classes = read.extent(form == Form::large ? "classifier.6.weight" : "classifier.weight", 2, 0),
          .width = width,
          .make = [=](const Task& task) {
            return AnyBackbone(
                backbones::Vgg16<>{.task = task, .width = width, .batch_norm = batch_norm, .form = form});
          }};
}

template <typename Network>
Told by_first_and_last(const Reader& read, const char* first, const char* last) {
  const int width = read.extent(first, 4, 0);
  read.require_numbers(std::int64_t{1000} * width * width);
  return {.image = {.channels = read.extent(first, 4, 1)},
          .classes = read.extent(last, 2, 0),
          .width = width,
          .make = [=](const Task& task) { return AnyBackbone(Network{.task = task, .width = width}); }};
}

/// \param channels of the images: the tensors tell only how many numbers a patch has
Told vit(const Reader& read, int channels) {
  const int width = read.extent("cls_token", 3, 2);
  const int inner = read.extent("transformer.layers.0.0.fn.to_qkv.weight", 2, 0) / 3;
  const int mlp = read.extent("transformer.layers.0.1.fn.net.0.weight", 2, 0);
  const int numbers = read.extent("to_patch_embedding.to_patch_tokens.1.weight", 1, 0);
  const int patches = read.extent("pos_embedding", 3, 1) - 1;
  read.require_numbers(std::int64_t{1} * width * std::max({width, inner, mlp, numbers}));
  const int patch = static_cast<int>(std::lround(std::sqrt(numbers / 5 / channels)));
  if (5 * channels * patch * patch != numbers) {
    read.refuse(
        fmt::format("its patches have {} numbers, which no square of {} channels and its four shifted "
                    "copies have",
                    numbers, channels));
  }
  constexpr int head_width = 64;  // as published; no tensor tells it
  if (inner < head_width || inner % head_width != 0) {
    read.refuse(fmt::format("its heads share {} numbers, which are no multiple of {}", inner, head_width));
  }
  int depth = 1;
  while (read.has(fmt::format("transformer.layers.{}.0.norm.weight", depth))) ++depth;
  const int side = patch * static_cast<int>(std::lround(std::sqrt(patches)));
  return {.image = {channels, side, side},
          .classes = read.extent("mlp_head.1.weight", 2, 0),
          .width = width,
          .make = [=](const Task& task) {
            return AnyBackbone(backbones::ViT<>{.task = task,
                                                .patch = patch,
                                                .width = width,
                                                .depth = depth,
                                                .heads = inner / head_width,
                                                .head_width = head_width,
                                                .mlp = mlp});
          }};
}

Told told_by(std::string_view network, const Reader& read, int channels) {
  if (network == "ResNet18") return residual<backbones::ResNet18>(read);
  if (network == "ResNet50") return residual<backbones::ResNet50>(read);
  if (network == "VGG16") return vgg16(read);
  if (network == "DenseNet121") {
    return by_first_and_last<backbones::DenseNet121<>>(read, "features.conv0.weight", "classifier.weight");
  }
  if (network == "InceptionV3") {
    return by_first_and_last<backbones::InceptionV3<>>(read, "Conv2d_1a_3x3.conv.weight", "fc.weight");
  }
  return vit(read, channels);
}

}  // namespace

std::string_view network_of(const Tensors& tensors) {
  const auto has = [&](const char* name) { return tensors.contains(name); };
  if (has("conv1.weight") && has("layer4.1.conv2.weight") && (has("fc.weight") || has("linear.weight"))) {
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
    return {};
  }
  if (has("features.denseblock3.denselayer24.conv1.weight") &&
      !has("features.denseblock3.denselayer25.conv1.weight")) {
    return "DenseNet121";
  }
  if (has("Conv2d_1a_3x3.conv.weight") && has("Mixed_7c.branch1x1.conv.weight")) return "InceptionV3";
  if (has("to_patch_embedding.to_patch_tokens.1.weight") && has("cls_token")) return "ViT";
  return {};
}

StoredNetwork stored_network(std::string_view name, Tensors tensors, const ImageShape& said,
                             const ImageShape& images, const std::string& from) {
  const std::string_view network = backbones::canonical_network_name(name);
  if (network == "InceptionV3") {  // a second classifier, which torchvision trains with the first
    std::erase_if(tensors, [](const auto& entry) { return entry.first.starts_with("AuxLogits."); });
  }
  const Reader reader(network, tensors, from);
  const int channels = said.channels == dynamic ? 3 : said.channels;
  const auto actual = network_of(tensors);
  if (!actual.empty() && actual != network) {
    throw Error("cannot use {} as {}{}: its tensors look like those of {}{}; say --arch {}", from,
                article(network), network, article(actual), actual, actual);
  }
  const Told told = told_by(network, reader, channels);
  if (!compatible(said.channels, told.image.channels)) {
    throw Error(
        "cannot use {} as {}{} for images of {} channels: its weights are for {}; say another --image", from,
        article(network), network, said.channels, told.image.channels);
  }
  const ImageShape shape = merged(said, merged(told.image, images));
  AnyBackbone backbone = told.make({shape, told.classes});
  artifacts::load_state_dict(*backbone.module, tensors, from);
  backbone.module->eval();
  return {std::move(backbone), told.width};
}

}  // namespace refine::cli
