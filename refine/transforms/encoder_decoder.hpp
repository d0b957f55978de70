#pragma once

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/pixel_shuffle.h>
#include <ATen/ops/pixel_unshuffle.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <refine/core/agreement.hpp>
#include <refine/core/seed.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/convolve_normed.hpp>
#include <refine/nn/foldable.hpp>
#include <refine/nn/seeded.hpp>
#include <refine/nn/upsampled.hpp>
#include <refine/transforms/squash.hpp>

namespace refine::transforms {

namespace detail {

/// Convolution that keeps the size, BatchNorm, ReLU.
class ConvolutionUnit : public torch::nn::Cloneable<ConvolutionUnit>, public nn::Foldable {
 public:
  ConvolutionUnit(std::int64_t in, std::int64_t out, std::int64_t kernel)
      : in_(in), out_(out), kernel_(kernel) {
    reset();
  }

  void reset() override {
    conv_ = register_module(
        "conv",
        torch::nn::Conv2d(torch::nn::Conv2dOptions(in_, out_, kernel_).padding(kernel_ / 2).bias(false)));
    norm_ = register_module("norm", torch::nn::BatchNorm2d(out_));
  }

  at::Tensor forward(const at::Tensor& x) { return nn::convolve_normed(conv_, norm_, x).relu_(); }

  void fold() override { nn::fold_pair(*this, "conv", conv_, "norm", norm_); }

 private:
  std::int64_t in_, out_, kernel_;
  torch::nn::Conv2d conv_{nullptr};
  torch::nn::BatchNorm2d norm_{nullptr};
};

class EncoderDecoderModule : public torch::nn::Cloneable<EncoderDecoderModule> {
 public:
  EncoderDecoderModule(std::int64_t channels, int levels, std::int64_t width, Squash squash)
      : channels_(channels), levels_(levels), width_(width), squash_(squash) {
    reset();
  }

  void reset() override {
    encoder_.clear();
    decoder_.clear();
    const auto unit = [&](const std::string& name, std::int64_t in, std::int64_t out, std::int64_t kernel) {
      return register_module(name, std::make_shared<ConvolutionUnit>(in, out, kernel));
    };
    std::int64_t in = patch * patch * channels_;
    for (int level = 0; level < levels_; ++level) {
      const std::int64_t out = width_ << level;
      const std::string name = "encoder" + std::to_string(level + 1);
      encoder_.push_back(unit(name + "_1", in, out, 3));
      encoder_.push_back(unit(name + "_2", out, out, 3));
      in = out;
    }
    bottleneck_ = unit("bottleneck", in, width_, 1);
    for (int level = levels_ - 1; level > 0; --level) {
      decoder_.push_back(
          unit("decoder" + std::to_string(level), width_, level == 1 ? width_ / 2 : width_, 3));
    }
    last_ = register_module(
        "last", torch::nn::Conv2d(torch::nn::Conv2dOptions(width_ / 2, patch * patch * channels_, 1)));
  }

  at::Tensor forward(const at::Tensor& images) {
    const std::int64_t multiple = std::int64_t{1} << levels_, height = images.size(2), width = images.size(3);
    const std::int64_t below = (multiple - height % multiple) % multiple,
                       beside = (multiple - width % multiple) % multiple;
    const bool whole = below == 0 && beside == 0;
    at::Tensor x = whole ? images : at::constant_pad_nd(images, {0, beside, 0, below});
    x = at::pixel_unshuffle(x, patch).contiguous(images.suggest_memory_format());
    for (std::size_t i = 0; i < encoder_.size(); ++i) {
      if (i > 0 && i % 2 == 0) x = at::max_pool2d(x, {2, 2});
      x = encoder_[i]->forward(x);
    }
    x = bottleneck_->forward(x);
    for (const auto& unit : decoder_) {
      x = nn::upsampled(x, 2, /*align_corners=*/false);
      x = unit->forward(x);
    }
    x = at::pixel_shuffle(last_->forward(x), patch);
    if (!whole) x = x.narrow(2, 0, height).narrow(3, 0, width);
    return squashed(x, squash_).contiguous(images.suggest_memory_format());
  }

 private:
  static constexpr std::int64_t patch = 2;

  std::int64_t channels_;
  int levels_;
  std::int64_t width_;
  Squash squash_;
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
  static constexpr bool replayable = true;

  ImageShape image = kTask.image;
  int levels = 3;   ///< how often the image is halved, 2 at least
  int width = 112;  ///< channels at half of the resolution; 28 beside narrow networks
  Squash squash = Squash::sigmoid;
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
                                                            Squash squash, std::uint64_t seed) {
    Message why;
    if (levels < 2 || levels > 8 || width < 2 || width % 2 != 0) {
      why << "refine: an EncoderDecoder of " << levels << " levels and width " << width
          << " was asked for; levels are 2 to 8, width is even and 2 at least";
    } else if (image.channels < 1) {
      why << "refine: an EncoderDecoder needs to know its channels; say .image = ImageShape{3, 32, 32}";
    } else if ((image.height != dynamic && image.height < 1 << levels) ||
               (image.width != dynamic && image.width < 1 << levels)) {
      why << "refine: an EncoderDecoder of " << levels << " levels halves its images " << levels << " times, "
          << image << " is too small; " << (1 << levels) << "x" << (1 << levels) << " is the least";
    }
    require_agreement(why);
    return nn::seeded(seed, [&] {
      return std::make_shared<detail::EncoderDecoderModule>(image.channels, levels, width, squash);
    });
  }
};

}  // namespace refine::transforms
