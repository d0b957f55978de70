#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/data/dataset.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/distributed/exchange.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>

namespace refine {

namespace detail {

/// Returns the values of an int64 tensor, copied to the host.
inline std::vector<std::int64_t> to_vector(const at::Tensor& numbers) {
  const at::Tensor host = numbers.to(at::kCPU).contiguous();
  const auto* begin = host.const_data_ptr<std::int64_t>();
  return {begin, begin + host.numel()};
}

/// Fills in the batches that other ranks have computed: batch b is that of rank b modulo the number of
/// ranks.
/// \param answers images×…; undefined on a rank without batches
inline at::Tensor gather_batches(distributed::AnyCommunicator& ranks, at::Tensor answers, std::int64_t images,
                                 std::int64_t batch) {
  // Rank 0 has the first batch, so it knows the shape of a row.
  const at::Tensor first =
      distributed::copy_tensor(ranks, answers.defined() ? answers.narrow(0, 0, 1).clone() : answers);
  if (!answers.defined()) {
    std::vector<std::int64_t> sizes = first.sizes().vec();
    sizes.front() = images;
    answers = at::empty(sizes, first.options());
  }
  std::vector<at::Tensor> parts;
  std::vector<distributed::Pending> pending;
  const std::int64_t batches = (images + batch - 1) / batch;
  for (std::int64_t root = 0; root < std::min(ranks.size(), batches); ++root) {
    std::vector<at::Tensor> own;
    for (std::int64_t b = root; b < batches; b += ranks.size())
      own.push_back(answers.narrow(0, b * batch, std::min(batch, images - b * batch)));
    parts.push_back(at::cat(own));
    pending.push_back(ranks.begin(distributed::Exchange::copy_from, parts.back(), root));
  }
  for (std::size_t root = 0; root < parts.size(); ++root) {
    pending[root].wait();
    std::int64_t done = 0;
    for (auto b = static_cast<std::int64_t>(root); b < batches; b += ranks.size()) {
      at::Tensor rows = answers.narrow(0, b * batch, std::min(batch, images - b * batch));
      rows.copy_(parts[root].narrow(0, done, rows.size(0)));
      done += rows.size(0);
    }
  }
  return answers;
}

}  // namespace detail

/// Applies a function to uint8 images in batches, without gradients, and gathers the results on the
/// host. Where memory is short for a batch, it goes on with batches of half the size. Within
/// `distributed::ScopedRanks`, each rank computes some of the batches, and all ranks get all results.
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
/// \throws Error if `answer` or `prepare` returns another number of rows or images than it was given
template <typename Answer, typename Advance, typename Prepare = std::identity>
at::Tensor map_batches(Answer&& answer, const at::Tensor& images, at::Device device, Advance&& advance,
                       Prepare&& prepare = {}) {
  // Smaller batches of large images: activations take many times their memory.
  constexpr std::int64_t max_images = 256, max_pixels = 1 << 21;
  std::int64_t batch = std::clamp(max_pixels / std::max<std::int64_t>(images.size(2) * images.size(3), 1),
                                  std::int64_t{1}, max_images);
  c10::NoGradGuard no_grad;
  at::Tensor answers;  // one for all: small allocations in between would keep freed images from being reused
  distributed::AnyCommunicator* const ranks = distributed::detail::current_ranks();
  const std::int64_t size = ranks != nullptr ? ranks->size() : 1, share = batch;
  std::int64_t done = 0;
  while (done < images.size(0)) {
    std::int64_t end = images.size(0);
    if (size > 1) {  // each rank has every size-th share
      end = std::min(end, (done / share + 1) * share);
      if (done / share % size != ranks->rank()) {
        advance(end - done);
        done = end;
        continue;
      }
    }
    const std::int64_t n = std::min(batch, end - done);
    at::Tensor rows;
    try {
      const at::Tensor prepared = prepare(images.narrow(0, done, n));
      if (!prepared.defined() || prepared.dim() != 4 || prepared.size(0) != n) {
        throw Error("map_batches: prepare must return an image for each image (got {}, expected {}×C×H×W)",
                    nn::sizes_text(prepared), n);
      }
      rows = answer(data::to_float(prepared, device).contiguous(at::MemoryFormat::ChannelsLast));
    } catch (const std::exception& error) {
      if (n == 1 || !nn::is_out_of_memory(error)) throw;
      batch = n / 2;
      continue;
    }
    // A single row would be copied to all images.
    if (!rows.defined() || rows.dim() < 1 || rows.size(0) != n) {
      throw Error("map_batches: answer must return a row for each image (got {}, expected {}×…)",
                  nn::sizes_text(rows), n);
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
  return size > 1 && done > 0 ? detail::gather_batches(*ranks, std::move(answers), images.size(0), share)
                              : answers;
}

/// Classifies uint8 images in batches, without gradients.
/// \param answer float images n×C×H×W in [0, 1] on `device`, channels last → logits n×classes
/// \param images uint8 N×C×H×W
/// \param device where `answer` computes
/// \param advance called with the number of images after each batch
/// \param prepare uint8 images → uint8 images, applied to each batch before it is sent to the
///   device
/// \return the predicted class of each image
/// \throws Error if `answer` does not return n×classes, or `prepare` an image for each image
template <typename Answer, typename Advance, typename Prepare = std::identity>
std::vector<std::int64_t> classify(Answer&& answer, const at::Tensor& images, at::Device device,
                                   Advance&& advance, Prepare&& prepare = {}) {
  const at::Tensor classes = map_batches(
      [&](const at::Tensor& x) {
        return backbones::check_logits("classify: answer", answer(x), x.size(0)).argmax(1);
      },
      images, device, advance, prepare);
  return classes.defined() ? detail::to_vector(classes) : std::vector<std::int64_t>{};
}

}  // namespace refine
