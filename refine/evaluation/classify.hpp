#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <c10/core/GradMode.h>

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

/// The classes that `answer` gives uint8 images N×C×H×W, in batches on `device`, without gradients.
/// \param answer float images in [0, 1] → logits N×classes
/// \param advance called with the number of images after each batch
template <typename Answer, typename Advance>
std::vector<std::int64_t> classify(Answer&& answer, const at::Tensor& images, at::Device device,
                                   Advance&& advance) {
  constexpr std::int64_t batch = 256;
  c10::NoGradGuard no_grad;
  std::vector<at::Tensor> classes;
  for (const at::Tensor& part : images.split(batch)) {
    if (part.size(0) == 0) continue;
    classes.push_back(answer(data::to_float(part, device).contiguous(at::MemoryFormat::ChannelsLast))
                          .argmax(1)
                          .to(at::kCPU));
    advance(part.size(0));
  }
  return classes.empty() ? std::vector<std::int64_t>{} : to_vector(at::cat(classes));
}

}  // namespace refine
