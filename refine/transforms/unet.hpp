#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/config.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/fold.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/transforms/transform.hpp>

namespace refine::transforms {

namespace detail {

/// (3×3 convolution, BatchNorm, ReLU) twice. Children are named as in the reference, `double_conv.0` … `.4`.
class DoubleConvolution : public torch::nn::Module, public nn::Foldable {
 public:
  DoubleConvolution(std::int64_t in, std::int64_t middle, std::int64_t out);

  at::Tensor forward(at::Tensor x);

  REFINE_INLINE void fold() override;

 private:
  std::shared_ptr<torch::nn::Module> parts_;
  torch::nn::Conv2d convolution_[2] = {nullptr, nullptr};
  torch::nn::BatchNorm2d norm_[2] = {nullptr, nullptr};
};

/// A child module reached through named containers: the reference has
/// `down1.maxpool_conv.1.double_conv.0.weight`.
std::shared_ptr<DoubleConvolution> nested(torch::nn::Module& root, const std::vector<std::string>& path,
                                          std::shared_ptr<DoubleConvolution> leaf);

class UNetModule : public torch::nn::Module {
 public:
  UNetModule(std::int64_t channels, int levels, std::int64_t width, OutputActivation squash);

  /// Its children are named as the reference's by containers that can't be cloned one by one.
  REFINE_INLINE std::shared_ptr<torch::nn::Module> clone(
      const std::optional<at::Device>& device = {}) const override;

  at::Tensor forward(const at::Tensor& images);

 private:
  std::int64_t channels_;
  int levels_;
  std::int64_t width_;
  OutputActivation squash_;
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
  static constexpr bool cuda_graph_safe = true;

  ImageShape image = kTask.image;
  int levels = 4;  ///< how often the image is halved
  int width = 64;  ///< channels at full resolution
  OutputActivation squash = OutputActivation::sigmoid;
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
                                                  OutputActivation squash, std::uint64_t seed) {
    Message why;
    if (levels < 1 || levels > 8 || width < 2 || width % 2 != 0) {
      why << "a UNet of " << levels << " levels and width " << width
          << " was asked for; levels are 1 to 8, width is even and 2 at least";
    } else if (image.channels < 1) {
      why << "a UNet needs to know its channels; say .image = ImageShape{3, 32, 32}";
    } else if ((image.height != dynamic && image.height < 1 << levels) ||
               (image.width != dynamic && image.width < 1 << levels)) {
      why << "a UNet of " << levels << " levels halves its images " << levels << " times, " << image
          << " is too small; " << (1 << levels) << "x" << (1 << levels) << " is the least";
    }
    require_agreement(why);
    return nn::with_torch_seed(
        seed, [&] { return std::make_shared<detail::UNetModule>(image.channels, levels, width, squash); });
  }
};

}  // namespace refine::transforms

#if !defined(REFINE_COMPILED_LIB)
#include <refine/transforms/impl/unet.ipp>
#endif
