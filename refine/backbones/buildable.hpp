#pragma once

#include <bit>
#include <string_view>

#include <refine/core/agreement.hpp>
#include <refine/core/article.hpp>
#include <refine/core/error.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/core/message.hpp>
#include <refine/core/task.hpp>

namespace refine::backbones::detail {

/// Why no `network` can be made for `task`; empty where one can.
/// \param least_side of its images, in pixels
constexpr Message unfit(std::string_view network, const Task& task, int least_side) {
  constexpr std::string_view times[] = {"", "once", "twice", "three times", "four times", "five times"};
  const auto too_small = [&](int side) { return side != dynamic && side < least_side; };
  Message why;
  if (task.image.channels == dynamic || task.classes == dynamic) {
    why << "refine: " << article(network) << network
        << " needs to know its channels and classes; say .task = Task{ImageShape{3, 32, 32}, 10}";
  } else if (task.image.channels < 1 || task.classes < 2) {
    why << "refine: " << article(network) << network << " was asked for " << task.image << " images and "
        << task.classes << " classes; it needs 1 channel and 2 classes at least";
  } else if (too_small(task.image.height) || too_small(task.image.width)) {
    const unsigned side = static_cast<unsigned>(least_side);
    const int halvings = std::has_single_bit(side) ? std::countr_zero(side) : 0;
    why << "refine: " << article(network) << network;
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
  require_agreement(unfit(network, merged(fixed, said), least_side));
  if (!compatible(fixed, said)) {
    Message why;
    require_agreement(why << "refine: " << network << "<" << fixed.image << ", " << fixed.classes
                          << "> was told another task: " << said.image << ", " << said.classes << " classes");
  }
  if (width >= 1) return;
  throw Error("refine: {}{} of width {} was asked for; width is at least 1", article(network), network,
              width);
}

}  // namespace refine::backbones::detail
