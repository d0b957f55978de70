#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/config.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/fold.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/transforms/transform.hpp>

namespace refine::transforms {

namespace detail {

/// A convolution that keeps the size, then BatchNorm and ReLU.
class ConvolutionUnit : public torch::nn::Cloneable<ConvolutionUnit>, public nn::Foldable {
 public:
  ConvolutionUnit(std::int64_t in, std::int64_t out, std::int64_t kernel);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x) { return nn::conv_bn(conv_, norm_, x).relu_(); }

  REFINE_INLINE void fold() override;

 private:
  std::int64_t in_, out_, kernel_;
  torch::nn::Conv2d conv_{nullptr};
  torch::nn::BatchNorm2d norm_{nullptr};
};

/// The module of `EncoderDecoder`.
class EncoderDecoderModule : public torch::nn::Cloneable<EncoderDecoderModule> {
 public:
  EncoderDecoderModule(std::int64_t channels, int levels, std::int64_t width, OutputActivation activation);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

  /// Returns what `forward` returns, and the means of the bottleneck's channels.
  Drawn draw(const at::Tensor& images);

 private:
  at::Tensor run(const at::Tensor& images, at::Tensor* bottleneck);

  static constexpr std::int64_t patch = 2;

  std::int64_t channels_;
  int levels_;
  std::int64_t width_;
  OutputActivation activation_;
  std::vector<std::shared_ptr<ConvolutionUnit>> encoder_, decoder_;
  std::shared_ptr<ConvolutionUnit> bottleneck_;
  torch::nn::Conv2d last_{nullptr};
};

}  // namespace detail

/// A light transform without skip connections. Squares of 2×2 pixels become channels (Shi et al.,
/// 2016, `shi2016subpixel`). Each further level halves the sides and doubles the channels. A narrow
/// decoder leads back from the coarsest level, as in SegNet (Badrinarayanan et al., 2017,
/// `badrinarayanan2017segnet`) but without its pooling indices.
///
/// The output depends on coarse features only: no pixel, and so no small trigger, is passed on
/// directly.
///
/// With three levels and width 28 it takes 9.4 million multiply-adds for an image of 32×32 pixels,
/// 0.24 times as many as a `UNet` of four levels and width 16.
template <Task kTask = dynamic_task>
struct EncoderDecoder {
  static constexpr ImageShape static_image = kTask.image;  ///< the shape that the type fixes
  static constexpr bool cuda_graph_safe = true;            ///< its work may be replayed as a CUDA graph

  ImageShape image = kTask.image;  ///< the shape of one image; its channels must be known
  int levels = 3;                  ///< how often the image is halved, 2 to 8
  int width = 112;                 ///< channels at half of the resolution, even, at least 2
  OutputActivation activation = OutputActivation::sigmoid;  ///< maps the last layer's output into [0, 1]
  std::uint64_t seed = default_seed;                        ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::EncoderDecoderModule> module = make(image, levels, width, activation, seed);

  /// Returns images in [0, 1] of the same shape.
  /// \param images float N×C×H×W; H and W at least 2^levels
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what `forward` returns, and the means of the bottleneck's channels.
  /// \param images float N×C×H×W; H and W at least 2^levels
  Drawn draw(const at::Tensor& images) const { return module->draw(images); }

  /// Returns what the weights do not show, in one line. It is saved with a defense and compared
  /// when that is loaded.
  std::string describe() const {
    return "EncoderDecoder, levels " + std::to_string(levels) + ", width " + std::to_string(width) + ", " +
           name_of(activation);
  }

 private:
  static std::shared_ptr<detail::EncoderDecoderModule> make(const ImageShape& image, int levels, int width,
                                                            OutputActivation activation, std::uint64_t seed) {
    Message why;
    if (levels < 2 || levels > 8 || width < 2 || width % 2 != 0) {
      why << "EncoderDecoder: levels must be 2 to 8, and width even and at least 2 (got levels " << levels
          << ", width " << width << ")";
    } else if (image.channels < 1) {
      why << "EncoderDecoder: channels must be known; set .image = ImageShape{3, 32, 32}";
    } else if ((image.height != dynamic && image.height < 1 << levels) ||
               (image.width != dynamic && image.width < 1 << levels)) {
      why << "EncoderDecoder: images are too small for " << levels << " levels (got " << image
          << ", expected at least " << (1 << levels) << "x" << (1 << levels) << "); each level halves them";
    }
    require_agreement(why);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::EncoderDecoderModule>(image.channels, levels, width, activation);
    });
  }
};

}  // namespace refine::transforms

#if !defined(REFINE_COMPILED_LIB)
#include <refine/transforms/impl/encoder_decoder.ipp>
#endif
