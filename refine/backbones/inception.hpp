#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>
#include <vector>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones {

namespace detail {

/// The least side of an image, in pixels, that an Inception-v3 leaves something of.
inline constexpr int inception_least = 75;

/// Images whose shorter side has less than `side` pixels, enlarged until it has as many, as torchvision's
/// `Resize(side)` does it (bilinearly; the other side keeps the ratio, rounded down); others as they are.
/// \param images float N×C×H×W
at::Tensor enlarged(const at::Tensor& images, std::int64_t side);

class InceptionConvolution;
class InceptionBlock;

class InceptionV3Module : public torch::nn::Cloneable<InceptionV3Module> {
 public:
  InceptionV3Module(std::int64_t channels, std::int64_t classes, std::int64_t width, std::int64_t resize);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

 private:
  std::int64_t channels_, classes_, width_, resize_;
  std::vector<std::shared_ptr<InceptionConvolution>> stem_;
  std::vector<std::shared_ptr<InceptionBlock>> blocks_;
  torch::nn::Dropout dropout_{nullptr};
  torch::nn::Linear fc_{nullptr};
};

}  // namespace detail

/// Inception-v3 (Szegedy et al., 2016, `szegedy2016inception`) without its auxiliary classifier. Parameter
/// names are torchvision's: `Conv2d_1a_3x3.conv.weight`, `Mixed_5b.branch1x1.bn.weight`, …, `fc.weight`; so
/// are the initial weights, but for a tenth of the deviation in the last layer, which starts sooner. Made for
/// images of 299×299 pixels, it takes those of 75×75 and more, and smaller ones by enlarging them first, as
/// the reference does with CIFAR-10's (to 96 pixels: `.resize = 96` for its weights).
///
/// torchvision's own weights want images of mean 0.5 and deviation 0.5, `Normalized` by those: what it loads
/// them into takes images with ImageNet's normalisation and turns that into this one (`transform_input`),
/// which no tensor tells.
///
/// `freeze` folds all 94 BatchNorms.
template <Task kTask = dynamic_task>
struct InceptionV3 {
  static constexpr Task static_task = kTask;
  static constexpr bool cuda_graph_safe = true;

  Task task = kTask;
  int width = 32;  ///< channels of the first convolution, an even number; all others are in proportion
  /// Images whose shorter side has fewer pixels are enlarged bilinearly until it has as many; 75 or more, or
  /// 0 to take images as they are. The weights do not tell it: say the same wherever they are used.
  int resize = usual_resize(merged(kTask, task).image);
  std::uint64_t seed = default_seed;  ///< of the initial weights
  std::shared_ptr<detail::InceptionV3Module> module = make(task, width, resize, seed);

  /// Float N×C×H×W → logits N×classes. \throws Error when images are too small and `resize` is 0
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  /// 75 where the images are known to be too small, else 0. Of 75 pixels every window reaches the last one;
  /// of the reference's 96 several stop short, and the lower right corner is nearly unseen.
  static constexpr int usual_resize(const ImageShape& image) {
    const auto small = [](int side) { return side != dynamic && side < detail::inception_least; };
    return small(image.height) || small(image.width) ? static_cast<int>(detail::inception_least) : 0;
  }

  static std::shared_ptr<detail::InceptionV3Module> make(const Task& task, int width, int resize,
                                                         std::uint64_t seed) {
    detail::require_buildable("InceptionV3", kTask, task, resize == 0 ? detail::inception_least : 1, width);
    if (width % 2 != 0) {
      throw Error(
          "an InceptionV3 of width {} was asked for; other layers have 3/2 and 5/2 of the width, say "
          "an even one",
          width);
    }
    if (resize != 0 && resize < detail::inception_least) {
      throw Error(
          "an InceptionV3 was told to enlarge small images to {} pixels; say 75 or more, or 0 to "
          "take "
          "them as they are",
          resize);
    }
    const Task whole = merged(kTask, task);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::InceptionV3Module>(whole.image.channels, whole.classes, width, resize);
    });
  }
};

}  // namespace refine::backbones

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/inception.ipp>
#endif
