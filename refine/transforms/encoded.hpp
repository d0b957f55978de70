#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/config.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/transforms/transform.hpp>

namespace refine::transforms {

/// A constant network that turns images into features. For `e` of type `E`:
///
///  1. `e.image` is the `ImageShape` of the images that it sees, all of it known;
///  2. `e.features` is the number of features of an image;
///  3. `e.forward(images)` takes float N×C×H×W in [0, 1] and returns float N×features;
///  4. `e.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds its tensors, in
///     evaluation mode, without parameters that require gradients and without BatchNorms that could
///     be folded. What it computes with is in there: `freeze` and the exported file share it;
///  5. `E` is copyable; copies share the module.
///
/// `ProgramEncoder` (refine/programs/encoder.hpp) reads one from a file.
template <typename E>
concept Encoder = std::copyable<E> && requires(const E& e, const at::Tensor& images) {
  { e.image } -> std::convertible_to<ImageShape>;
  { e.features } -> std::convertible_to<int>;
  { e.forward(images) } -> std::same_as<at::Tensor>;
  { e.module } -> std::convertible_to<std::shared_ptr<torch::nn::Module>>;
};

/// A trainable network that draws images from features. For `d` of type `D`:
///
///  1. `d.image` is the `ImageShape` of what it draws, all of it known;
///  2. `d.features` is the number of features that it takes;
///  3. `d.draw(features)` takes float N×features and returns a `Drawn`;
///  4. `d.standardize(features)` adapts it to the features of the training images, N×features;
///  5. `d.module` is a `std::shared_ptr` to its `torch::nn::Module`;
///  6. `D` is copyable; copies share the module.
///
/// `with_module`, `describe` and `cuda_graph_safe` are as in `Transform`.
template <typename D>
concept Decoder = std::copyable<D> && refine::detail::PolicyMembersFit<D> &&
    requires(const D& d, const at::Tensor& features) {
  { d.image } -> std::convertible_to<ImageShape>;
  { d.features } -> std::convertible_to<int>;
  { d.draw(features) } -> std::same_as<Drawn>;
  d.standardize(features);
  { d.module } -> std::convertible_to<std::shared_ptr<torch::nn::Module>>;
};

namespace detail {

/// The module of `UpsamplingDecoder`.
class UpsamplingModule : public torch::nn::Cloneable<UpsamplingModule> {
 public:
  UpsamplingModule(std::int64_t features, const ImageShape& image, std::int64_t bottleneck,
                   std::int64_t width);

  REFINE_INLINE void reset() override;

  Drawn draw(const at::Tensor& features);

  void standardize(const at::Tensor& features);

 private:
  static constexpr int levels = 4;  // of doubling

  std::int64_t features_;
  ImageShape image_;
  std::int64_t bottleneck_, width_;
  at::Tensor mean_, deviation_;
  torch::nn::Linear reduce_{nullptr}, start_{nullptr};
  torch::nn::BatchNorm2d start_norm_{nullptr};
  std::vector<std::shared_ptr<ConvolutionUnit>> units_;
  torch::nn::Conv2d last_{nullptr};
};

/// The module of `Encoded`: a constant encoder, which copies share, and a decoder.
class EncodedModule : public torch::nn::Module {
 public:
  EncodedModule(std::shared_ptr<torch::nn::Module> encoder, std::shared_ptr<torch::nn::Module> decoder);

  /// Copies the decoder.
  REFINE_INLINE std::shared_ptr<torch::nn::Module> clone(
      const std::optional<at::Device>& device = {}) const override;

  /// Leaves the encoder in evaluation mode.
  REFINE_INLINE void train(bool on = true) override;

  const std::shared_ptr<torch::nn::Module>& encoder() const { return encoder_; }
  const std::shared_ptr<torch::nn::Module>& decoder() const { return decoder_; }

 private:
  std::shared_ptr<torch::nn::Module> encoder_, decoder_;
};

}  // namespace detail

/// Draws an image from a feature vector: the features, standardized, are reduced to a bottleneck of
/// a few numbers, which become a map of a sixteenth of the sides; four times that is doubled and
/// convolved. All that it knows of an image are the numbers at the bottleneck.
struct UpsamplingDecoder {
  static constexpr bool cuda_graph_safe = true;  ///< its work may be replayed as a CUDA graph

  int features = 0;                   ///< number of features that it takes, at least 1
  ImageShape image = {};              ///< shape of what it draws; all of it must be known
  int bottleneck = 64;                ///< numbers at the bottleneck, at least 1
  int width = 96;                     ///< channels of the first map, a multiple of 4
  std::uint64_t seed = default_seed;  ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::UpsamplingModule> module = make(features, image, bottleneck, width, seed);

  /// Returns images in [0, 1], and the bottleneck.
  /// \param input float N×features
  Drawn draw(const at::Tensor& input) const { return module->draw(input); }

  /// Stores mean and deviation of each feature, by which `draw` standardizes its input.
  /// \param training float N×features
  void standardize(const at::Tensor& training) const { module->standardize(training); }

  /// Returns what the weights do not show, in one line.
  std::string describe() const;

 private:
  static std::shared_ptr<detail::UpsamplingModule> make(int features, const ImageShape& image, int bottleneck,
                                                        int width, std::uint64_t seed);
};

/// A trusted encoder, which is not trained, and a small decoder, which is. For victims that were
/// fine-tuned from public weights, and for few images: the encoder sees already, and only drawing
/// must be learned.
///
/// A backdoor of the victim is not in the encoder, so its trigger means nothing to it. An encoder that
/// has the same backdoor passes it on: take it from where nobody could tamper with it.
///
///     const transforms::ProgramEncoder encoder{"encoder.pt", {.image = {3, 224, 224}}};
///     Pipeline defense{transforms::Encoded{.image = {3, 224, 224},
///                                          .encoder = encoder,
///                                          .decoder = {.features = encoder.features, .image = {3, 96, 96}}},
///                      freeze(victim), remaps::Derangement<>{.classes = 10}};
///     fit(defense, images, recipes::encoded);
///
/// `fit` computes the features of each image once (`EncodingTransform`).
template <Encoder E, Decoder D = UpsamplingDecoder>
struct Encoded {
  ImageShape image = {};  ///< the shape of one image of the task, which is resized to what the encoder sees
  E encoder;              ///< turns images into features
  D decoder;              ///< draws images from features
  ImageShape output_shape = decoder.image;            ///< what the decoder draws
  bool cuda_graph_safe = nn::is_replayable(decoder);  ///< of training, which runs the decoder only
  /// Holds both. Made from the members above.
  std::shared_ptr<detail::EncodedModule> module =
      std::make_shared<detail::EncodedModule>(encoder.module, decoder.module);

  /// Checks that the parts fit each other. Not done when it is made: GCC 12 destroys `decoder` twice if an initializer
  /// after it throws.
  /// \throws Error if they do not
  void check() const {
    const ImageShape sees = encoder.image, draws = decoder.image;
    Message why;
    if (!sees.is_static() || !draws.is_static()) {
      why << "Encoded: the image shapes of encoder and decoder must be known (got " << sees << " and "
          << draws << "); set .decoder = {.image = ImageShape{3, 96, 96}}";
    } else if (encoder.features != decoder.features) {
      why << "Encoded: the encoder gives " << encoder.features << " features, but the decoder takes "
          << decoder.features << "; set .decoder = {.features = encoder.features}";
    } else if (!compatible(image.channels, sees.channels)) {
      why << "Encoded: the encoder sees " << sees << " images, but the task has " << image
          << "; use an encoder of as many channels";
    } else if (output_shape != draws) {
      why << "Encoded: the decoder draws " << draws << " images, but output_shape is " << output_shape
          << "; leave output_shape out";
    }
    require_agreement(why);
  }

  /// Returns images in [0, 1], N×C of the height and width of `output_shape`.
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error as `check`
  at::Tensor forward(const at::Tensor& images) const { return draw(encode(images)).images; }

  /// Returns the features of images, float N×features.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor encode(const at::Tensor& images) const {
    check();
    return encoder.forward(nn::resize(images, encoder.image));
  }

  /// Returns images drawn from features, and the bottleneck.
  /// \param features float N×features
  Drawn draw(const at::Tensor& features) const { return decoder.draw(features); }

  /// Adapts the decoder to the features of the training images.
  /// \param features float N×features
  void standardize(const at::Tensor& features) const { decoder.standardize(features); }

  /// Returns the encoder's module.
  std::shared_ptr<torch::nn::Module> encoder_module() const { return module->encoder(); }

  /// Returns the decoder's module.
  std::shared_ptr<torch::nn::Module> trained_module() const { return module->decoder(); }

  /// Returns the sizes and the decoder's description, in one line. The encoder is identified by a
  /// fingerprint, which `save` stores.
  std::string describe() const {
    Message sizes;
    sizes << "Encoded, sees " << ImageShape(encoder.image) << ", draws " << output_shape;
    std::string text(sizes.view());
    if constexpr (requires { decoder.describe(); }) text += ": " + decoder.describe();
    return text;
  }

  /// Returns the same transform around another module; the encoder stays.
  Encoded with_module(std::shared_ptr<detail::EncodedModule> other) const {
    auto decoder_module = std::dynamic_pointer_cast<nn::ModuleOf<D>>(other->decoder());
    if (!decoder_module) throw Error("Encoded: the decoder's module must be of the same kind");
    Encoded copy = *this;
    copy.decoder = nn::with_module(decoder, std::move(decoder_module));
    copy.module = std::move(other);
    return copy;
  }

  /// True if the decoder's module can be cloned.
  bool can_freeze() const { return nn::CanClone<nn::ModuleOf<D>>; }
};

static_assert(Decoder<UpsamplingDecoder>);

}  // namespace refine::transforms

#if !defined(REFINE_COMPILED_LIB)
#include <refine/transforms/impl/encoded.ipp>
#endif
