#pragma once

#include <refine/evaluation/bench.hpp>

#include <ATen/ops/rand.h>
#include <c10/core/GradMode.h>
#include <c10/core/MemoryFormat.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <exception>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/evaluation/detail/inference_meters.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::detail {

/// Returns the seconds from a batch on the device to its logits on the host.
inline double time_answer(const BenchAnswer& answer, const at::Tensor& images) {
  const auto start = std::chrono::steady_clock::now();
  const at::Tensor logits = answer.logits(images).to(at::kCPU);  // waits for the device
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Measures batches of one size, and adds the result to each of `costs`.
/// \param current receives the answer that is asked, for messages
inline void bench_batches(const std::vector<BenchAnswer>& answers, const at::Tensor& images, double seconds,
                          bool show, std::vector<AnswerCost>& costs, const BenchAnswer*& current) {
  constexpr double min_rounds = 5, max_rounds = 1000;
  const auto batch = static_cast<int>(images.size(0));
  double round_seconds = 0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    current = &answers[i];
    time_answer(answers[i], images);  // programs specialize in their first calls
    costs[i].batches.push_back({.images = batch});
    costs[i].batches.back().memory = static_cast<std::int64_t>(images.nbytes()) +
                                     peak_tensor_memory(images.device(), [&] { answers[i].logits(images); });
    round_seconds += time_answer(answers[i], images);
  }
  const auto rounds =
      static_cast<std::int64_t>(std::clamp(std::ceil(seconds / round_seconds), min_rounds, max_rounds));
  const auto asked = static_cast<std::int64_t>(answers.size()) * batch;
  EvaluationProgress progress(fmt::format("batches of {}", batch), rounds * asked, show);
  std::vector<std::vector<double>> times(answers.size()), ratios(answers.size());
  for (std::int64_t round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < answers.size(); ++i) {
      current = &answers[i];
      times[i].push_back(time_answer(answers[i], images));
      ratios[i].push_back(times[i].back() / times.front().back());
    }
    progress(asked);
  }
  progress.finish();
  for (std::size_t i = 0; i < answers.size(); ++i) {
    costs[i].batches.back().seconds = metrics::quartiles(times[i]);
    costs[i].batches.back().ratio = metrics::quartiles(ratios[i]);
  }
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE std::vector<AnswerCost> bench(const std::vector<BenchAnswer>& answers, const ImageShape& image,
                                            at::Device device, const BenchOptions& options) {
  if (options.batch_size < 1)
    throw Error("BenchOptions.batch_size must be at least 1, got {}", options.batch_size);
  if (!(options.seconds > 0) || !std::isfinite(options.seconds))
    throw Error("BenchOptions.seconds must be positive, got {}", options.seconds);
  if (!image.is_static())
    throw Error("bench: the image shape must be known (got {}); set it in the Task", image);
  const c10::NoGradGuard no_grad;
  std::vector<AnswerCost> costs;
  std::vector<int> sizes = {1};
  if (options.batch_size > 1) sizes.push_back(options.batch_size);
  const BenchAnswer* current = nullptr;
  int batch = 1;
  const auto fails = [&](const std::string& why) {
    return Error(
        "bench: the {} answer fails for a batch of {} image{} ({}); set another batch size (--batch_size)",
        current == nullptr ? "first" : current->name, batch, batch == 1 ? "" : "s", why);
  };
  try {
    for (const int size : sizes) {
      batch = size;
      const at::Tensor images =
          nn::with_torch_seed(default_seed,
                              [&] {
                                return at::rand({size, image.channels, image.height, image.width});
                              })
              .to(device)
              .contiguous(at::MemoryFormat::ChannelsLast);
      if (costs.empty()) {
        for (const BenchAnswer& answer : answers) {
          current = &answer;
          costs.push_back({.answer = answer.name,
                           .multiply_adds = detail::multiply_adds_of([&] { answer.logits(images); })});
        }
      }
      detail::bench_batches(answers, images, options.seconds / static_cast<double>(sizes.size()),
                            options.show, costs, current);
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw fails(nn::is_out_of_memory(error) ? "memory is too short" : nn::describe_error(error));
  }
  return costs;
}

}  // namespace refine
