#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <utility>

#include <refine/backbones/backbone.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/fold.hpp>
#include <refine/transforms/encoded.hpp>

namespace refine::transforms {

namespace detail {

/// The module of `BackboneEncoder`: a frozen network, and the normalisation before it.
class BackboneEncoderModule : public torch::nn::Module, public nn::Foldable {
 public:
  /// \throws Error as `refine::detail::check_normalization`
  BackboneEncoderModule(std::shared_ptr<torch::nn::Module> network,
                        const std::optional<Normalization>& normalization, const ImageShape& image);

  at::Tensor normalize(const at::Tensor& images) const;

  /// Does nothing: the network is frozen.
  void fold() override {}
  bool folds_children() const override { return true; }

 private:
  at::Tensor mean_, deviation_;  // undefined: images are not normalised
};

inline BackboneEncoderModule::BackboneEncoderModule(std::shared_ptr<torch::nn::Module> network,
                                                    const std::optional<Normalization>& normalization,
                                                    const ImageShape& image) {
  register_module("network", std::move(network));
  eval();
  if (!normalization) return;
  refine::detail::check_normalization("BackboneEncoder", *normalization, image.channels,
                                      "give an encoder of grey images three equal means and deviations");
  using refine::detail::channel_tensor;
  const auto device = nn::device_of(*this).value_or(at::kCPU);
  mean_ = register_buffer("mean", channel_tensor(normalization->mean, image.channels).to(device));
  deviation_ =
      register_buffer("deviation", channel_tensor(normalization->deviation, image.channels).to(device));
}

inline at::Tensor BackboneEncoderModule::normalize(const at::Tensor& images) const {
  return mean_.defined() ? (images - mean_) / deviation_ : images;
}

/// \throws Error unless the image shape of an encoder's backbone is known and the backbone computes with
///   nothing but its module's tensors
inline void check_encoder_backbone(const ImageShape& image, bool has_constants) {
  if (!image.is_static()) {
    throw Error(
        "BackboneEncoder: the image shape must be known (got {}); set .image = ImageShape{{3, 224, 224}}",
        image);
  }
  if (has_constants) {
    throw Error(
        "BackboneEncoder: the backbone normalises; freeze the network inside, and set .normalization in its place");
  }
}

/// Returns one blank image on the module's device.
inline at::Tensor blank_image(const ImageShape& image, const torch::nn::Module& module) {
  return at::zeros({1, image.channels, image.height, image.width},
                   at::TensorOptions(nn::device_of(module).value_or(at::kCPU)));
}

}  // namespace detail

/// A frozen network of this library, without its last layer, as the encoder of `Encoded`.
///
///     backbones::ResNet50<> network{.task = {{3, 224, 224}, 1000}};
///     nn::load_state_dict(*network.module, formats::read_weights("resnet50.pth").tensors, "resnet50.pth");
///     const transforms::BackboneEncoder encoder{.backbone = freeze(network), .normalization = normalizations::imagenet};
template <backbones::FeatureBackbone B>
requires backbones::FrozenBackbone<B>
struct BackboneEncoder {
  B backbone;  ///< the network, frozen; without a normalisation inside
  std::optional<Normalization> normalization = std::nullopt;  ///< what images in [0, 1] are normalised with
  ImageShape image = Task(backbone.task).image;  ///< shape of the images that it sees; must be known
  /// Holds the network. Made from the members above.
  std::shared_ptr<detail::BackboneEncoderModule> module = make(backbone, normalization, image);
  int features = count(backbone, image, *module);  ///< number of features; found by asking

  /// Returns features, float N×features.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return backbone.features(module->normalize(images)); }

 private:
  static std::shared_ptr<detail::BackboneEncoderModule> make(
      const B& backbone, const std::optional<Normalization>& normalization, const ImageShape& image) {
    detail::check_encoder_backbone(image, !backbones::constants_of(backbone).empty());
    return std::make_shared<detail::BackboneEncoderModule>(backbone.module, normalization, image);
  }

  static int count(const B& backbone, const ImageShape& image, const torch::nn::Module& module) {
    return static_cast<int>(backbone.features(detail::blank_image(image, module)).size(1));
  }
};

}  // namespace refine::transforms
