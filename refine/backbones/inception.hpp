#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/core.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/shared_batch.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones {

namespace detail {

/// The smallest side of an image, in pixels, of which an Inception-v3 leaves at least one pixel.
inline constexpr int inception_min_side = 75;

/// Enlarges images bilinearly until their shorter side has `side` pixels, as torchvision's
/// `Resize(side)`; the other side keeps the ratio, rounded down. Returns images unchanged if they
/// are large enough.
/// \param images float N×C×H×W
/// \param side in pixels
at::Tensor enlarge(const at::Tensor& images, std::int64_t side);

class InceptionConvolution;
class InceptionBlock;

/// The module of `InceptionV3`.
class InceptionV3Module : public torch::nn::Cloneable<InceptionV3Module>,
                          public nn::OpaqueModule,
                          public Staged {
 public:
  InceptionV3Module(std::int64_t channels, std::int64_t classes, std::int64_t width, std::int64_t resize);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

  /// Returns what the last layer takes, N×F.
  at::Tensor features(const at::Tensor& images);

  int stages() const override { return 3; }

  /// Returns the size to which small images are enlarged.
  std::string code() const override { return resize_ == 0 ? "" : fmt::format("resize {}", resize_); }

 private:
  std::int64_t channels_, classes_, width_, resize_;
  std::vector<std::shared_ptr<InceptionConvolution>> stem_;
  std::vector<std::shared_ptr<InceptionBlock>> blocks_;
  nn::Dropout dropout_{nullptr};
  torch::nn::Linear fc_{nullptr};
};

}  // namespace detail

/// Inception-v3 (Szegedy et al., 2016, `szegedy2016inception`) without its auxiliary classifier.
///
/// It is made for images of 299×299 pixels and takes those of at least 75×75; smaller ones are
/// enlarged first. The authors' code enlarges CIFAR-10's images to 96 pixels; set `.resize = 96`
/// for weights from there.
///
/// Parameter names are torchvision's: `Conv2d_1a_3x3.conv.weight`, `Mixed_5b.branch1x1.bn.weight`,
/// …, `fc.weight`. So are the initial weights, except that those of the last layer have a tenth of
/// the deviation, with which it starts to learn sooner.
///
/// torchvision's pretrained weights expect a `Normalization` of mean 0.5 and deviation 0.5: its own
/// model takes images with ImageNet's normalisation and converts them (`transform_input`). The
/// weights do not show this.
///
/// `freeze` folds all 94 BatchNorms.
template <Task kTask = dynamic_task>
struct InceptionV3 {
  static constexpr Task static_task = kTask;     ///< the task that the type fixes
  static constexpr bool cuda_graph_safe = true;  ///< its work may be replayed as a CUDA graph

  Task task = kTask;  ///< what it classifies; channels and classes must be known
  int width = 32;     ///< channels of the first convolution, even, at least 2; all others are in proportion
  /// Images whose shorter side has fewer pixels are enlarged bilinearly to this: at least 75, or 0
  /// to leave images unchanged. The weights do not show it: set the same value wherever they are
  /// used.
  int resize = default_resize(merged(kTask, task).image);
  std::uint64_t seed = default_seed;  ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::InceptionV3Module> module = make(task, width, resize, seed);

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if images have fewer than 75×75 pixels and `resize` is 0
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what the last layer takes, float N×F.
  /// \param images as `forward` takes them
  at::Tensor features(const at::Tensor& images) const { return module->features(images); }

 private:
  /// Returns 75 if the images are known to be too small, otherwise 0. At 75 pixels every window
  /// reaches the last pixel; at the authors' 96 several windows stop before it, and the lower right
  /// corner is hardly seen.
  static constexpr int default_resize(const ImageShape& image) {
    const auto small = [](int side) { return side != dynamic && side < detail::inception_min_side; };
    return small(image.height) || small(image.width) ? static_cast<int>(detail::inception_min_side) : 0;
  }

  static std::shared_ptr<detail::InceptionV3Module> make(const Task& task, int width, int resize,
                                                         std::uint64_t seed) {
    const int min_side = resize == 0 ? detail::inception_min_side : 1;
    detail::require_buildable("InceptionV3", kTask, task, min_side, width);
    if (width % 2 != 0) {
      throw Error("InceptionV3: width must be even, got {}; other layers have 3/2 and 5/2 of it", width);
    }
    if (resize != 0 && resize < detail::inception_min_side) {
      throw Error("InceptionV3: resize must be 75 or more, or 0 to leave images unchanged, got {}", resize);
    }
    const Task merged_task = merged(kTask, task);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::InceptionV3Module>(merged_task.image.channels, merged_task.classes,
                                                         width, resize);
    });
  }
};

}  // namespace refine::backbones

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/inception.ipp>
#endif
