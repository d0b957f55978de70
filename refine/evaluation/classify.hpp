#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <vector>

#include <refine/data/dataset.hpp>
#include <refine/nn/device.hpp>

namespace refine {

namespace detail {

/// Returns the values of an int64 tensor, copied to the host.
inline std::vector<std::int64_t> to_vector(const at::Tensor& numbers) {
  const at::Tensor host = numbers.to(at::kCPU).contiguous();
  const auto* begin = host.const_data_ptr<std::int64_t>();
  return {begin, begin + host.numel()};
}

}  // namespace detail

/// Applies a function to uint8 images in batches, without gradients, and gathers the results on the
/// host. Where memory is short for a batch, it goes on with batches of half the size.
///
///     at::Tensor scores = map_batches([&](const at::Tensor& x) { return defense.alarm(x); }, images,
///                                     defense.device(), [](std::int64_t) {});
///
/// \param answer float images n×C×H×W in [0, 1] on `device`, channels last → tensor with n rows
/// \param images uint8 N×C×H×W
/// \param device where `answer` computes
/// \param advance called with the number of images after each batch
/// \param prepare uint8 images → uint8 images, applied to each batch before it is sent to the
///   device. A trigger can be stamped here, so that no second set of images is held in memory.
/// \return the results along the first dimension, N×…; undefined for N = 0
template <typename Answer, typename Advance, typename Prepare = std::identity>
at::Tensor map_batches(Answer&& answer, const at::Tensor& images, at::Device device, Advance&& advance,
                       Prepare&& prepare = {}) {
  // Smaller batches of large images: activations take many times their memory.
  constexpr std::int64_t max_images = 256, max_pixels = 1 << 21;
  std::int64_t batch = std::clamp(max_pixels / std::max<std::int64_t>(images.size(2) * images.size(3), 1),
                                  std::int64_t{1}, max_images);
  c10::NoGradGuard no_grad;
  at::Tensor answers;  // one for all: small allocations in between would keep freed images from being reused
  std::int64_t done = 0;
  while (done < images.size(0)) {
    const std::int64_t n = std::min(batch, images.size(0) - done);
    at::Tensor rows;
    try {
      rows = answer(data::to_float(prepare(images.narrow(0, done, n)), device)
                        .contiguous(at::MemoryFormat::ChannelsLast));
    } catch (const std::exception& error) {
      if (n == 1 || !nn::is_out_of_memory(error)) throw;
      batch = n / 2;
      continue;
    }
    if (!answers.defined()) {
      auto sizes = rows.sizes().vec();
      sizes.front() = images.size(0);
      answers = at::empty(sizes, rows.options().device(at::kCPU));
    }
    answers.narrow(0, done, n).copy_(rows);
    done += n;
    advance(n);
  }
  return answers;
}

/// Classifies uint8 images in batches, without gradients.
/// \param answer float images n×C×H×W in [0, 1] on `device`, channels last → logits n×classes
/// \param images uint8 N×C×H×W
/// \param device where `answer` computes
/// \param advance called with the number of images after each batch
/// \param prepare uint8 images → uint8 images, applied to each batch before it is sent to the
///   device
/// \return the predicted class of each image
template <typename Answer, typename Advance, typename Prepare = std::identity>
std::vector<std::int64_t> classify(Answer&& answer, const at::Tensor& images, at::Device device,
                                   Advance&& advance, Prepare&& prepare = {}) {
  const at::Tensor classes =
      map_batches([&](const at::Tensor& x) { return answer(x).argmax(1); }, images, device, advance, prepare);
  return classes.defined() ? detail::to_vector(classes) : std::vector<std::int64_t>{};
}

}  // namespace refine
