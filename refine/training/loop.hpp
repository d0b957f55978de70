#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/module.h>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/seed.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/pixels.hpp>
#include <refine/nn/draws.hpp>
#include <refine/nn/free_memory.hpp>
#include <refine/nn/repeated.hpp>
#include <refine/nn/sent.hpp>
#include <refine/training/batch_augmentation.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/optimizers.hpp>

namespace refine::detail {

/// What a step's targets are found by, on the module's device.
struct Batch {
  at::Tensor images;   ///< float N×C×H×W in [0, 1], augmented, channels last
  at::Tensor plain;    ///< the same images as they are
  at::Tensor indices;  ///< int64, which of the training set they are
  std::int64_t step;   ///< from 0, over all epochs
  bool first_epoch;
};

/// What one batch came to: the loss, with gradient, and how many answers were right (a scalar tensor, so that
/// a device need not be waited for).
struct BatchResult {
  at::Tensor loss;
  at::Tensor right;
};

/// The batches of an epoch. BatchNorm can't learn from a single value a channel, so a last batch of one image
/// joins the one before.
inline std::vector<at::Tensor> batches_of(const data::Batches& batches, std::int64_t n, std::int64_t epoch) {
  std::vector<at::Tensor> cut = batches(n, epoch);
  if (cut.size() > 1 && cut.back().size(0) == 1) {
    const at::Tensor last = cut.back();
    cut.pop_back();
    cut.back() = at::cat({cut.back(), last});
  }
  return cut;
}

/// The training images where batches are gathered from: on `device`, or on the host when they are more than
/// half of the memory that is free there (the network needs the rest), so that each batch travels alone. The
/// batches are the same.
inline at::Tensor resident(const at::Tensor& bytes, at::Device device) {
  return bytes.nbytes() <= nn::free_memory(device) / 2 ? bytes.to(device) : bytes;
}

/// The loop that victims and defenses are trained by.
/// \param targets of a `Batch`, without gradient: a tensor with a row an image
/// \param learn (images, targets) → what the batch came to; done again and again, replayed where it
/// `may_replay`
template <typename Targets, typename Learn, typename... Observers>
void train(const RunInfo& run, torch::nn::Module& module, at::Device device, const at::Tensor& bytes,
           const Optimization& how, const BatchAugmentation& augmented, std::uint64_t seed, Targets&& targets,
           Learn&& learn, bool may_replay, Observers&... observers) {
  const std::int64_t n = bytes.size(0);
  if (n < 2)
    throw Error("refine: {} image(s) are too few to train the {} on; give it two at least", n, run.name);
  const data::Batches batches{.size = how.batch_size, .seed = derived_seed(seed, "order")};
  const auto per_epoch = static_cast<std::int64_t>(batches_of(batches, n, 0).size()),
             steps = per_epoch * how.epochs;
  const auto begin = std::chrono::steady_clock::now();

  const at::Tensor source = resident(bytes, device);
  Optimizers optimizers(module, how);
  if (optimizers.empty())
    throw Error("refine: the {} has no parameters to train; choose another network", run.name);
  struct BackToEvaluation {  // also after a failure
    torch::nn::Module& module;
    ~BackToEvaluation() { module.eval(); }
  } back_to_evaluation{module};
  module.train();
  notify_begin({run.name, how.epochs, per_epoch, n, run.accuracy_of}, observers...);

  nn::Draws draws(device);
  const at::Tensor loss = at::zeros({}, at::TensorOptions(device).dtype(at::kDouble)),
                   right = at::zeros({}, at::TensorOptions(device).dtype(at::kLong));
  nn::Repeated take_step(device, may_replay, [&](const at::Tensor& images, const at::Tensor& wanted) {
    const BatchResult result = learn(images, wanted);
    optimizers.zero_grad();
    result.loss.backward();
    optimizers.step();
    loss.add_(result.loss.detach(), static_cast<double>(images.size(0)));
    right.add_(result.right);
  });
  std::int64_t step = 0, seen = 0;
  for (int epoch = 0; epoch < how.epochs; ++epoch) {
    loss.zero_();
    right.zero_();
    double factor = 1;
    std::int64_t in_epoch = 0;
    for (const at::Tensor& indices : batches_of(batches, n, epoch)) {
      const at::Tensor there = nn::sent(indices, device);
      const at::Tensor plain =
          data::to_float(nn::sent(source.index_select(0, source.is_cpu() ? indices : there), device), device);
      const at::Tensor images =
          augmented(plain, there, seed, step).contiguous(at::MemoryFormat::ChannelsLast);
      const at::Tensor wanted = targets(Batch{images, plain, there, step, epoch == 0});
      draws.seed(derived_seed(seed, "dropout", static_cast<std::uint64_t>(step)));

      factor = how.rate_factor(step, steps, epoch);
      optimizers.set_rate_factor(factor);
      take_step(images, wanted);
      ++step;
      seen += indices.size(0);
      notify_step({epoch + 1, ++in_epoch, seen}, observers...);
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    const EpochInfo info{epoch + 1, loss.item<double>() / static_cast<double>(n),
                         static_cast<double>(right.item<std::int64_t>()) / static_cast<double>(n),
                         how.lr * factor, elapsed.count()};
    if (!std::isfinite(info.loss)) {
      throw Error(
          "refine: training the {} diverged, its loss is {} in epoch {}; lower the recipe's learning rates, "
          "lr is {}",
          run.name, info.loss, info.epoch, how.lr);
    }
    notify_epoch(info, observers...);
  }
  notify_end(observers...);
}

}  // namespace refine::detail
