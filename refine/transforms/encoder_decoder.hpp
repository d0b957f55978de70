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

/// Convolution that keeps the size, BatchNorm, ReLU.
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

class EncoderDecoderModule : public torch::nn::Cloneable<EncoderDecoderModule> {
 public:
  EncoderDecoderModule(std::int64_t channels, int levels, std::int64_t width, OutputActivation squash);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

 private:
  static constexpr std::int64_t patch = 2;

  std::int64_t channels_;
  int levels_;
  std::int64_t width_;
  OutputActivation squash_;
  std::vector<std::shared_ptr<ConvolutionUnit>> encoder_, decoder_;
  std::shared_ptr<ConvolutionUnit> bottleneck_;
  torch::nn::Conv2d last_{nullptr};
};

}  // namespace detail

/// A light transform without skip connections, from images to images of the same shape, in [0, 1]: squares of
/// 2×2 pixels become channels (Shi et al., 2016, `shi2016subpixel`), each further level halves the sides and
/// doubles the channels, and a narrow decoder goes back up from the coarsest one, as SegNet's
/// (Badrinarayanan et al., 2017, `badrinarayanan2017segnet`) does without its indices. What it draws depends
/// on the coarse features alone: no pixel, and so no small trigger, is carried over.
///
/// With three levels and width 28 an image of 32×32 pixels costs 9.4 million multiply-adds, 0.24 times as
/// many as a `UNet` of four levels and width 16.
template <Task kTask = dynamic_task>
struct EncoderDecoder {
  static constexpr ImageShape static_image = kTask.image;
  static constexpr bool cuda_graph_safe = true;

  ImageShape image = kTask.image;
  int levels = 3;   ///< how often the image is halved, 2 at least
  int width = 112;  ///< channels at half of the resolution; 28 beside narrow networks
  OutputActivation squash = OutputActivation::sigmoid;
  std::uint64_t seed = default_seed;  ///< of the initial weights
  std::shared_ptr<detail::EncoderDecoderModule> module = make(image, levels, width, squash, seed);

  /// Float N×C×H×W → float N×C×H×W in [0, 1].
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// What its tensors do not tell, in one line; saved with a defense, and compared when it is loaded.
  std::string describe() const {
    return "EncoderDecoder, levels " + std::to_string(levels) + ", width " + std::to_string(width) + ", " +
           name_of(squash);
  }

 private:
  static std::shared_ptr<detail::EncoderDecoderModule> make(const ImageShape& image, int levels, int width,
                                                            OutputActivation squash, std::uint64_t seed) {
    Message why;
    if (levels < 2 || levels > 8 || width < 2 || width % 2 != 0) {
      why << "an EncoderDecoder of " << levels << " levels and width " << width
          << " was asked for; levels are 2 to 8, width is even and 2 at least";
    } else if (image.channels < 1) {
      why << "an EncoderDecoder needs to know its channels; say .image = ImageShape{3, 32, 32}";
    } else if ((image.height != dynamic && image.height < 1 << levels) ||
               (image.width != dynamic && image.width < 1 << levels)) {
      why << "an EncoderDecoder of " << levels << " levels halves its images " << levels << " times, "
          << image << " is too small; " << (1 << levels) << "x" << (1 << levels) << " is the least";
    }
    require_agreement(why);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::EncoderDecoderModule>(image.channels, levels, width, squash);
    });
  }
};

}  // namespace refine::transforms

#if !defined(REFINE_COMPILED_LIB)
#include <refine/transforms/impl/encoder_decoder.ipp>
#endif
