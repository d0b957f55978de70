#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include <refine/data/pixels.hpp>

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
template <typename Answer, typename Advance>
at::Tensor in_batches(Answer&& answer, const at::Tensor& images, at::Device device, Advance&& advance) {
  constexpr std::int64_t most = 256,
                         pixels = 1 << 21;  // of large images fewer: activations are many times them
  const std::int64_t batch =
      std::clamp(pixels / std::max<std::int64_t>(images.size(2) * images.size(3), 1), std::int64_t{1}, most);
  c10::NoGradGuard no_grad;
  std::vector<at::Tensor> answers;
  for (const at::Tensor& part : images.split(batch)) {
    if (part.size(0) == 0) continue;
    answers.push_back(
        answer(data::to_float(part, device).contiguous(at::MemoryFormat::ChannelsLast)).to(at::kCPU));
    advance(part.size(0));
  }
  return answers.empty() ? at::Tensor{} : at::cat(answers);
}

/// The classes that `answer` gives uint8 images N×C×H×W, in batches on `device`, without gradients.
/// \param answer float images in [0, 1] → logits N×classes
/// \param advance called with the number of images after each batch
template <typename Answer, typename Advance>
std::vector<std::int64_t> classify(Answer&& answer, const at::Tensor& images, at::Device device,
                                   Advance&& advance) {
  const at::Tensor classes =
      in_batches([&](const at::Tensor& x) { return answer(x).argmax(1); }, images, device, advance);
  return classes.defined() ? to_vector(classes) : std::vector<std::int64_t>{};
}

}  // namespace refine
