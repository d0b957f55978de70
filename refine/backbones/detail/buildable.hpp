#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>

#include <bit>
#include <cmath>
#include <string>
#include <string_view>

#include <refine/backbones/backbone.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>

namespace refine::backbones::detail {

/// Returns the smallest side, in pixels, of which a stem and three further halvings leave at least
/// 1 pixel.
constexpr int min_side(const Stem& stem) {
  return 8 * (stem.kernel == 7 ? 2 : 1) * (stem.pooling ? 2 : 1);
}

/// Returns why a network cannot be built for a task, or an empty message if it can.
/// \param network its name, for the message
/// \param task what it is built for
/// \param min_side the smallest side of its images, in pixels
constexpr Message check_supported(std::string_view network, const Task& task, int min_side) {
  constexpr std::string_view times[] = {"", "once", "twice", "three times", "four times", "five times"};
  const auto too_small = [&](int side) { return side != dynamic && side < min_side; };
  Message why;
  if (task.image.channels == dynamic || task.classes == dynamic) {
    why << network << ": channels and classes must be known; set .task = Task{ImageShape{3, 32, 32}, 10}";
  } else if (task.image.channels < 1 || task.classes < 2) {
    why << network << ": at least 1 channel and 2 classes are required (got " << task.image << " images, "
        << task.classes << " classes)";
  } else if (too_small(task.image.height) || too_small(task.image.width)) {
    const unsigned side = static_cast<unsigned>(min_side);
    const int halvings = std::has_single_bit(side) ? std::countr_zero(side) : 0;
    why << network << ": images are too small (got " << task.image << ", expected at least " << min_side
        << "x" << min_side << "); the network ";
    if (halvings >= 1 && halvings <= 5) why << "halves them " << times[halvings];
    if (halvings < 1 || halvings > 5) why << "reduces them step by step";
  }
  return why;
}

/// Checks that a task given at run time agrees with the one that a type fixes.
/// \param type its name, for the message
/// \param fixed the task that the type fixes
/// \param specified the task given at run time
/// \throws Error if an extent that both know differs
inline void require_task_of_type(std::string_view type, const Task& fixed, const Task& specified) {
  if (compatible(fixed, specified)) return;
  throw Error("{}<{}, {}>: the task differs from that of the type (got {})", type, fixed.image,
              fixed.classes == dynamic ? "?" : std::to_string(fixed.classes), specified);
}

/// Checks what every network here requires before it is built.
/// \param network its name, for messages
/// \param fixed the task that its type fixes
/// \param specified the task given at run time
/// \param min_side the smallest side of its images, in pixels
/// \param width the number of channels of its first layer
/// \throws Error if the two tasks disagree, a required extent is open, images are too small, or the
///   width is less than 1
inline void require_buildable(std::string_view network, const Task& fixed, const Task& specified,
                              int min_side, int width) {
  require_agreement(check_supported(network, merged(fixed, specified), min_side));
  require_task_of_type(network, fixed, specified);
  if (width < 1) throw Error("{}: width must be at least 1, got {}", network, width);
}

/// Draws the weights of all convolutions in a module from N(0, 2/(k·k·out)), so that gradients keep
/// their size on the way back through ReLUs (He et al., 2015, `he2015rectifiers`), and sets their
/// biases to 0.
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
