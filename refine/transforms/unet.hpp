#pragma once

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/max_pool2d.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <refine/core/agreement.hpp>
#include <refine/core/seed.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/convolve_normed.hpp>
#include <refine/nn/deep_copy.hpp>
#include <refine/nn/foldable.hpp>
#include <refine/nn/seeded.hpp>
#include <refine/nn/upsampled.hpp>
#include <refine/transforms/squash.hpp>

namespace refine::transforms {

namespace detail {

/// (3×3 convolution, BatchNorm, ReLU) twice. Children are named as in the reference, `double_conv.0` … `.4`.
class DoubleConvolution : public torch::nn::Module, public nn::Foldable {
 public:
  DoubleConvolution(std::int64_t in, std::int64_t middle, std::int64_t out) {
    // The reference numbers the ReLUs between too; they have no state and no place here.
    parts_ = register_module("double_conv", std::make_shared<torch::nn::Module>("double_conv"));
    for (int i = 0; i < 2; ++i) {
      const std::int64_t from = i == 0 ? in : middle, to = i == 0 ? middle : out;
      convolution_[i] = parts_->register_module(
          std::to_string(3 * i), torch::nn::Conv2d(torch::nn::Conv2dOptions(from, to, 3).padding(1)));
      norm_[i] = parts_->register_module(std::to_string(3 * i + 1), torch::nn::BatchNorm2d(to));
    }
  }

  at::Tensor forward(at::Tensor x) {
    for (int i = 0; i < 2; ++i) x = nn::convolve_normed(convolution_[i], norm_[i], x).relu_();
    return x;
  }

  void fold() override {
    for (int i = 0; i < 2; ++i) {
      nn::fold_pair(*parts_, std::to_string(3 * i), convolution_[i], std::to_string(3 * i + 1), norm_[i]);
    }
  }

 private:
  std::shared_ptr<torch::nn::Module> parts_;
  torch::nn::Conv2d convolution_[2] = {nullptr, nullptr};
  torch::nn::BatchNorm2d norm_[2] = {nullptr, nullptr};
};

/// A child module reached through named containers: the reference has
/// `down1.maxpool_conv.1.double_conv.0.weight`.
inline std::shared_ptr<DoubleConvolution> nested(torch::nn::Module& root,
                                                 const std::vector<std::string>& path,
                                                 std::shared_ptr<DoubleConvolution> leaf) {
  torch::nn::Module* at = &root;
  for (std::size_t i = 0; i + 1 < path.size(); ++i) {
    at = at->register_module(path[i], std::make_shared<torch::nn::Module>(path[i])).get();
  }
  at->register_module(path.back(), leaf);
  return leaf;
}

class UNetModule : public torch::nn::Module {
 public:
  UNetModule(std::int64_t channels, int levels, std::int64_t width, Squash squash)
      : channels_(channels), levels_(levels), width_(width), squash_(squash) {
    down_.push_back(nested(*this, {"inc"}, std::make_shared<DoubleConvolution>(channels, width, width)));
    // f, 2f, 4f, … and, at the bottom, as many as the level above: concatenation doubles what comes up.
    std::vector<std::int64_t> widths = {width};
    for (int level = 1; level <= levels; ++level) {
      widths.push_back(width << std::min(level, levels - 1));
      down_.push_back(
          nested(*this, {"down" + std::to_string(level), "maxpool_conv", "1"},
                 std::make_shared<DoubleConvolution>(widths[level - 1], widths[level], widths[level])));
    }
    std::int64_t below = widths.back();
    for (int level = levels - 1; level >= 0; --level) {
      const std::int64_t in = below + widths[level];
      const std::int64_t out = level == 0 ? width : widths[level] / 2;
      up_.push_back(nested(*this, {"up" + std::to_string(levels - level), "conv"},
                           std::make_shared<DoubleConvolution>(in, in / 2, out)));
      below = out;
    }
    auto outc = register_module("outc", std::make_shared<torch::nn::Module>("outc"));
    last_ = outc->register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(width, channels, 1)));
  }

  /// Its children are named as the reference's by containers that can't be cloned one by one.
  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = {}) const override {
    auto copy = std::make_shared<UNetModule>(channels_, levels_, width_, squash_);
    nn::detail::copy_tensors(named_parameters(), copy->named_parameters());
    nn::detail::copy_tensors(named_buffers(), copy->named_buffers());
    copy->train(is_training());
    if (device) copy->to(*device);
    return copy;
  }

  at::Tensor forward(const at::Tensor& images) {
    std::vector<at::Tensor> skips = {down_[0]->forward(images)};
    for (std::size_t level = 1; level < down_.size(); ++level) {
      skips.push_back(down_[level]->forward(at::max_pool2d(skips.back(), {2, 2})));
    }
    at::Tensor x = skips.back();
    for (std::size_t i = 0; i < up_.size(); ++i) {
      const at::Tensor& skip = skips[skips.size() - 2 - i];
      x = nn::upsampled(x, 2, /*align_corners=*/true);
      const std::int64_t dy = skip.size(2) - x.size(2), dx = skip.size(3) - x.size(3);
      if (dy != 0 || dx != 0) x = at::constant_pad_nd(x, {dx / 2, dx - dx / 2, dy / 2, dy - dy / 2});
      x = up_[i]->forward(at::cat({skip, x}, 1));
    }
    x = last_->forward(x);
    return squashed(x, squash_);
  }

 private:
  std::int64_t channels_;
  int levels_;
  std::int64_t width_;
  Squash squash_;
  std::vector<std::shared_ptr<DoubleConvolution>> down_, up_;
  torch::nn::Conv2d last_{nullptr};
};

}  // namespace detail

/// A U-Net (Ronneberger et al., 2015, `ronneberger2015unet`) from images to images of the same shape, in
/// [0, 1]. Four levels and width 64 are the reference's little U-Net, `UNet{.levels = 3}` and 5 its three-
/// and five-level ones; parameter names are the reference's. Up-sampling is bilinear with aligned corners.
template <Task kTask = dynamic_task>
struct UNet {
  static constexpr ImageShape static_image = kTask.image;
  static constexpr bool replayable = true;

  ImageShape image = kTask.image;
  int levels = 4;  ///< how often the image is halved
  int width = 64;  ///< channels at full resolution
  Squash squash = Squash::sigmoid;
  std::uint64_t seed = default_seed;  ///< of the initial weights
  std::shared_ptr<detail::UNetModule> module = make(image, levels, width, squash, seed);

  /// Float N×C×H×W → float N×C×H×W in [0, 1].
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// What its tensors do not tell, in one line; saved with a defense, and compared when it is loaded.
  std::string describe() const {
    return "UNet, levels " + std::to_string(levels) + ", width " + std::to_string(width) + ", " +
           name_of(squash);
  }

 private:
  static std::shared_ptr<detail::UNetModule> make(const ImageShape& image, int levels, int width,
                                                  Squash squash, std::uint64_t seed) {
    Message why;
    if (levels < 1 || levels > 8 || width < 2 || width % 2 != 0) {
      why << "refine: a UNet of " << levels << " levels and width " << width
          << " was asked for; levels are 1 to 8, width is even and 2 at least";
    } else if (image.channels < 1) {
      why << "refine: a UNet needs to know its channels; say .image = ImageShape{3, 32, 32}";
    } else if ((image.height != dynamic && image.height < 1 << levels) ||
               (image.width != dynamic && image.width < 1 << levels)) {
      why << "refine: a UNet of " << levels << " levels halves its images " << levels << " times, " << image
          << " is too small; " << (1 << levels) << "x" << (1 << levels) << " is the least";
    }
    require_agreement(why);
    return nn::seeded(
        seed, [&] { return std::make_shared<detail::UNetModule>(image.channels, levels, width, squash); });
  }
};

}  // namespace refine::transforms
