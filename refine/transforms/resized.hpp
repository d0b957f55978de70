#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <concepts>
#include <memory>
#include <string>
#include <utility>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/module.hpp>
#include <refine/transforms/transform.hpp>

namespace refine::transforms {

class AnyTransform;

namespace detail {

/// False if the type of a transform shows that it has an encoder. That of an `AnyTransform` does not.
template <typename T>
concept MayLackEncoder = std::same_as<T, AnyTransform> || !EncodingTransform<T>;

/// Returns why the shapes of `Resized` do not fit together; empty if they do.
/// \param image what it takes
/// \param inner what the inner transform takes
/// \param output what it returns
constexpr Message check_resized(const ImageShape& image, const ImageShape& inner, const ImageShape& output) {
  Message why;
  if (!inner.is_static()) {
    why << "Resized: the image shape of the inner transform must be known (got " << inner
        << "); set .inner = {.image = ImageShape{3, 64, 64}}";
  } else if (!output.is_static() || output.height < 1 || output.width < 1) {
    why << "Resized: output_shape must be known and positive (got " << output
        << "); set .output_shape = ImageShape{3, 96, 96}";
  } else if (!compatible(image.channels, inner.channels) || output.channels != inner.channels) {
    why << "Resized: the channels differ (image " << image << ", inner transform " << inner
        << ", output_shape " << output << "); give all the same";
  }
  return why;
}

}  // namespace detail

/// Works at another size than the task's: shrinks the images to the size of the inner transform, and
/// scales what that draws to the size at which the victim is asked. Both are bilinear; where images
/// shrink, with a filter against aliasing.
///
/// A transform classifies and draws. Neither needs 224 pixels, and a victim that pools its last
/// layer takes images of other sizes: a defended answer can then cost less than the victim alone. A
/// victim that takes one size only needs that as `output_shape`.
///
/// The inner transform must have no encoder: `Encoded` resizes by itself.
///
///     const transforms::Resized<transforms::UNet<>> small{.image = {3, 224, 224},
///                                                         .inner = {.image = {3, 64, 64}, .width = 16},
///                                                         .output_shape = {3, 96, 96}};
template <Transform T>
requires detail::MayLackEncoder<T>
struct Resized {
  ImageShape image = {};  ///< the shape of one image of the task; may be open
  T inner;                ///< its image shape, which must be known, is what it sees
  /// The shape of the images that it returns, which the victim must take.
  ImageShape output_shape = inner.image;
  bool cuda_graph_safe = nn::is_replayable(inner);  ///< whether the inner transform is
  decltype(T::module) module = inner.module;        ///< that of the inner transform

  /// Checks that the shapes fit each other. Not done when it is made: GCC 12 destroys `inner` twice if an initializer
  /// after it throws.
  /// \throws Error if they do not, those of `inner` do not fit each other, or it has an encoder
  void check() const {
    require_agreement(detail::check_resized(image, inner.image, output_shape));
    check_members(inner);
    if (encoder_module_of(inner)) {
      throw Error(
          "Resized: the inner transform must have no encoder; use Encoded alone, which resizes by "
          "itself");
    }
  }

  /// Returns images in [0, 1], N×C of the height and width of `output_shape`.
  /// \param images float N×C×H×W
  /// \throws Error as `check`
  at::Tensor forward(const at::Tensor& images) const {
    check();
    return nn::resize(inner.forward(nn::resize(images, inner.image)), output_shape);
  }

  /// Returns what `forward` returns, and the bottleneck of the inner transform.
  /// \param images float N×C×H×W
  Drawn draw(const at::Tensor& images) const {
    check();
    Drawn drawn = transforms::draw(inner, nn::resize(images, inner.image));
    drawn.images = nn::resize(drawn.images, output_shape);
    return drawn;
  }

  /// Returns the sizes and the inner transform's description, in one line.
  std::string describe() const {
    Message sizes;
    sizes << "Resized, sees " << inner.image << ", draws " << output_shape;
    std::string text(sizes.view());
    if constexpr (requires { inner.describe(); }) text += ": " + inner.describe();
    return text;
  }

  /// Returns the part of the inner transform that is trained.
  std::shared_ptr<torch::nn::Module> trained_module() const { return trained_module_of(inner); }

  /// Returns the same transform around another module of the same type.
  Resized with_module(decltype(T::module) other) const {
    Resized copy = *this;
    copy.inner = nn::with_module(inner, std::move(other));
    copy.module = copy.inner.module;
    return copy;
  }

  /// True if `freeze` can copy the inner transform.
  bool can_freeze() const { return transforms::can_freeze(inner); }
};

}  // namespace refine::transforms
