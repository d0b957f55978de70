#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include <refine/data/detail/pixels.hpp>

namespace refine {

/// An int64 tensor's numbers, on the host.
inline std::vector<std::int64_t> to_vector(const at::Tensor& numbers) {
  const at::Tensor host = numbers.to(at::kCPU).contiguous();
  const auto* begin = host.const_data_ptr<std::int64_t>();
  return {begin, begin + host.numel()};
}

/// What `answer` says of uint8 images N×C×H×W, in batches on `device`, without gradients; gathered on the
/// host, along the first dimension. An undefined tensor for no images.
/// \param answer float images in [0, 1] → a tensor of as many rows
/// \param advance called with the number of images after each batch
/// \param prepare uint8 images → uint8 images, of each batch before it travels: a trigger's stamp, so that
///   there need never be a second set of images
template <typename Answer, typename Advance, typename Prepare = std::identity>
at::Tensor in_batches(Answer&& answer, const at::Tensor& images, at::Device device, Advance&& advance,
                      Prepare&& prepare = {}) {
  constexpr std::int64_t most = 256,
                         pixels = 1 << 21;  // of large images fewer: activations are many times them
  const std::int64_t batch =
      std::clamp(pixels / std::max<std::int64_t>(images.size(2) * images.size(3), 1), std::int64_t{1}, most);
  c10::NoGradGuard no_grad;
  at::Tensor answers;  // one for all: small ones in between would keep freed images from being used again
  std::int64_t done = 0;
  for (const at::Tensor& part : images.split(batch)) {
    if (part.size(0) == 0) continue;
    const at::Tensor these =
        answer(data::to_float(prepare(part), device).contiguous(at::MemoryFormat::ChannelsLast));
    if (!answers.defined()) {
      auto sizes = these.sizes().vec();
      sizes.front() = images.size(0);
      answers = at::empty(sizes, these.options().device(at::kCPU));
    }
    answers.narrow(0, done, part.size(0)).copy_(these);
    done += part.size(0);
    advance(part.size(0));
  }
  return answers;
}

/// The classes that `answer` gives uint8 images N×C×H×W, in batches on `device`, without gradients.
/// \param answer float images in [0, 1] → logits N×classes
/// \param advance, prepare as in `in_batches`
template <typename Answer, typename Advance, typename Prepare = std::identity>
std::vector<std::int64_t> classify(Answer&& answer, const at::Tensor& images, at::Device device,
                                   Advance&& advance, Prepare&& prepare = {}) {
  const at::Tensor classes =
      in_batches([&](const at::Tensor& x) { return answer(x).argmax(1); }, images, device, advance, prepare);
  return classes.defined() ? to_vector(classes) : std::vector<std::int64_t>{};
}

}  // namespace refine
