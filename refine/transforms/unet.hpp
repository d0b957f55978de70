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

/// (3×3 convolution, BatchNorm, ReLU) twice. Children are named as in the authors' code,
/// `double_conv.0` to `double_conv.4`.
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

/// Registers a module below nested containers and returns it. The authors' code has parameters such
/// as `down1.maxpool_conv.1.double_conv.0.weight`.
/// \param root gets the outermost container
/// \param path names of the containers, then of the module
/// \param leaf the module
std::shared_ptr<DoubleConvolution> register_nested(torch::nn::Module& root,
                                                   const std::vector<std::string>& path,
                                                   std::shared_ptr<DoubleConvolution> leaf);

/// The module of `UNet`.
class UNetModule : public torch::nn::Module {
 public:
  UNetModule(std::int64_t channels, int levels, std::int64_t width, OutputActivation activation);

  /// Builds a new module and copies the tensors: the containers cannot be cloned one by one.
  REFINE_INLINE std::shared_ptr<torch::nn::Module> clone(
      const std::optional<at::Device>& device = {}) const override;

  at::Tensor forward(const at::Tensor& images);

  /// Returns what `forward` returns, and the means of the coarsest level's channels.
  Drawn draw(const at::Tensor& images);

 private:
  at::Tensor run(const at::Tensor& images, at::Tensor* coarsest);

  std::int64_t channels_;
  int levels_;
  std::int64_t width_;
  OutputActivation activation_;
  std::vector<std::shared_ptr<DoubleConvolution>> down_, up_;
  torch::nn::Conv2d last_{nullptr};
};

}  // namespace detail

/// A U-Net (Ronneberger et al., 2015, `ronneberger2015unet`). Up-sampling is bilinear with aligned
/// corners; odd sizes are padded.
///
/// With width 64, four levels are the authors' `UNetLittle`, three and five levels their
/// `UNet3Layer` and `UNet5Layer`. Their output activation is `OutputActivation::clamp`. Parameter
/// names are theirs.
template <Task kTask = dynamic_task>
struct UNet {
  static constexpr ImageShape static_image = kTask.image;  ///< the shape that the type fixes
  static constexpr bool cuda_graph_safe = true;            ///< its work may be replayed as a CUDA graph

  ImageShape image = kTask.image;  ///< the shape of one image; its channels must be known
  int levels = 4;                  ///< how often the image is halved, 1 to 8
  int width = 64;                  ///< channels at full resolution, even, at least 2
  OutputActivation activation = OutputActivation::sigmoid;  ///< maps the last layer's output into [0, 1]
  std::uint64_t seed = default_seed;                        ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::UNetModule> module = make(image, levels, width, activation, seed);

  /// Returns images in [0, 1] of the same shape.
  /// \param images float N×C×H×W; H and W at least 2^levels
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what `forward` returns, and the means of the coarsest level's channels.
  /// \param images float N×C×H×W; H and W at least 2^levels
  Drawn draw(const at::Tensor& images) const { return module->draw(images); }

  /// Returns what the weights do not show, in one line. It is saved with a defense and compared
  /// when that is loaded.
  std::string describe() const {
    return "UNet, levels " + std::to_string(levels) + ", width " + std::to_string(width) + ", " +
           name_of(activation);
  }

 private:
  static std::shared_ptr<detail::UNetModule> make(const ImageShape& image, int levels, int width,
                                                  OutputActivation activation, std::uint64_t seed) {
    Message why;
    if (levels < 1 || levels > 8 || width < 2 || width % 2 != 0) {
      why << "UNet: levels must be 1 to 8, and width even and at least 2 (got levels " << levels << ", width "
          << width << ")";
    } else if (image.channels < 1) {
      why << "UNet: channels must be known; set .image = ImageShape{3, 32, 32}";
    } else if ((image.height != dynamic && image.height < 1 << levels) ||
               (image.width != dynamic && image.width < 1 << levels)) {
      why << "UNet: images are too small for " << levels << " levels (got " << image << ", expected at least "
          << (1 << levels) << "x" << (1 << levels) << "); each level halves them";
    }
    require_agreement(why);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::UNetModule>(image.channels, levels, width, activation);
    });
  }
};

}  // namespace refine::transforms

#if !defined(REFINE_COMPILED_LIB)
#include <refine/transforms/impl/unet.ipp>
#endif
