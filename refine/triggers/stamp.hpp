#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

#include <refine/data/dataset.hpp>
#include <refine/data/pixels.hpp>
#include <refine/triggers/trigger_policy.hpp>

namespace refine::triggers {

/// uint8 N×C×H×W → uint8 N×C×H×W, each image with the trigger on it, rounded to the bytes that a file would
/// hold. Training and evaluation both stamp through here, so both see the same images.
template <TriggerPolicy T>
at::Tensor stamp(const T& trigger, const at::Tensor& images) {
  require_agreement(misfit(trigger.image, data::image_of(images)));
  at::Tensor stamped = at::empty(images.sizes(), images.options());
  constexpr std::int64_t pixels = 1 << 20;  // bounds the memory that float images take
  const std::int64_t n = images.size(0), area = std::max<std::int64_t>(images.size(2) * images.size(3), 1),
                     stretch = std::max<std::int64_t>(pixels / area, 1);
  for (std::int64_t begin = 0; begin < n; begin += stretch) {
    const std::int64_t count = std::min(stretch, n - begin);
    const at::Tensor part = images.narrow(0, begin, count);
    stamped.narrow(0, begin, count).copy_(data::to_bytes(trigger.apply(data::to_float(part, part.device()))));
  }
  return stamped;
}

}  // namespace refine::triggers
