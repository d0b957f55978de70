#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string_view>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>

namespace refine::backbones {

/// Two networks that go by one name.
enum class Variant {
  cifar,     ///< for images of about 32 pixels, as the reference has it for CIFAR-10
  imagenet,  ///< for images of about 224 pixels, as torchvision has it
};

/// The form for images of this shape: large where the shorter side is known to be of more than 64 pixels.
constexpr Variant variant_for(const ImageShape& image) {
  const int shorter = image.height == dynamic || image.width == dynamic ? std::max(image.height, image.width)
                                                                        : std::min(image.height, image.width);
  return shorter > 64 ? Variant::imagenet : Variant::cifar;
}

/// How a residual network begins: a convolution of 3×3 pixels with stride 1, or of 7×7 with stride 2; then
/// 3×3 max pooling with stride 2, or none, which no tensor tells.
struct Stem {
  int kernel = 3;  ///< 3 or 7 pixels a side
  bool pooling = false;

  friend constexpr bool operator==(const Stem&, const Stem&) = default;
};

/// The stem that a form was published with.
constexpr Stem stem_of(Variant variant) {
  return variant == Variant::cifar ? Stem{.kernel = 3, .pooling = false} : Stem{.kernel = 7, .pooling = true};
}

/// The shorter side of the smallest images that are left at 1 pixel or more behind a stem and three strides.
constexpr int least_side(const Stem& stem) {
  return 8 * (stem.kernel == 7 ? 2 : 1) * (stem.pooling ? 2 : 1);
}

}  // namespace refine::backbones

namespace refine::backbones::detail {

/// Why no `network` can be made for `task`; empty where one can.
/// \param least_side of its images, in pixels
constexpr Message check_supported(std::string_view network, const Task& task, int least_side) {
  constexpr std::string_view times[] = {"", "once", "twice", "three times", "four times", "five times"};
  const auto too_small = [&](int side) { return side != dynamic && side < least_side; };
  Message why;
  if (task.image.channels == dynamic || task.classes == dynamic) {
    why << "" << article(network) << network
        << " needs to know its channels and classes; say .task = Task{ImageShape{3, 32, 32}, 10}";
  } else if (task.image.channels < 1 || task.classes < 2) {
    why << "" << article(network) << network << " was asked for " << task.image << " images and "
        << task.classes << " classes; it needs 1 channel and 2 classes at least";
  } else if (too_small(task.image.height) || too_small(task.image.width)) {
    const unsigned side = static_cast<unsigned>(least_side);
    const int halvings = std::has_single_bit(side) ? std::countr_zero(side) : 0;
    why << "" << article(network) << network;
    if (halvings >= 1 && halvings <= 5) why << " halves its images " << times[halvings] << ",";
    if (halvings < 1 || halvings > 5) why << " makes its images smaller step by step,";
    why << " " << task.image << " is too small; " << least_side << "x" << least_side << " is the least";
  }
  return why;
}

/// What every network here asks before it is built.
/// \param network its name, for messages
/// \param fixed the task of its type \param said the task it was told
/// \param least_side of its images, in pixels \param width its channels at the beginning
/// \throws Error when the two tasks disagree, an extent that it needs is open, images are too small, or the
///   width is no number of channels
inline void require_buildable(std::string_view network, const Task& fixed, const Task& said, int least_side,
                              int width) {
  require_agreement(check_supported(network, merged(fixed, said), least_side));
  if (!compatible(fixed, said)) {
    Message why;
    require_agreement(why << "" << network << "<" << fixed.image << ", " << fixed.classes
                          << "> was told another task: " << said.image << ", " << said.classes << " classes");
  }
  if (width >= 1) return;
  throw Error("{}{} of width {} was asked for; width is at least 1", article(network), network, width);
}

/// Draws the weights of all convolutions in `module` from N(0, 2/(k·k·out)), so that gradients keep their
/// size on the way back through ReLUs (He et al., 2015, `he2015rectifiers`), and sets their biases to 0.
void kaiming_normal_fan_out_(torch::nn::Module& module);

inline void kaiming_normal_fan_out_(torch::nn::Module& module) {
  const c10::NoGradGuard no_grad;
  for (const auto& part : module.modules(/*include_self=*/false)) {
    auto* convolution = dynamic_cast<torch::nn::Conv2dImpl*>(part.get());
    if (!convolution) continue;
    at::Tensor& weight = convolution->weight;
    const double fan_out = static_cast<double>(weight.size(0) * weight.size(2) * weight.size(3));
    weight.normal_(0, std::sqrt(2 / fan_out));
    if (convolution->bias.defined()) convolution->bias.zero_();
  }
}

}  // namespace refine::backbones::detail
