#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Device.h>
#include <c10/core/GradMode.h>
#include <torch/nn/module.h>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/nn/transfer.hpp>
#include <refine/training/detail/optimizers.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>

namespace refine::detail {

/// True if a precision means bfloat16 on this device.
inline bool uses_bfloat16(Precision precision, at::Device device) {
  return precision == Precision::bfloat16 || (precision == Precision::automatic && nn::has_bfloat16(device));
}

/// Augments batches: as the recipe says, then as the training set requires, except for the images
/// that it exempts. Images that must not be flipped get the recipe's other changes by the same
/// random numbers. Steps that are off cost nothing.
class BatchAugmentation {
 public:
  explicit BatchAugmentation(const data::Augmentation& recipe) : recipe_(recipe) {}

  BatchAugmentation(const data::Augmentation& recipe, const data::TrainingSet& set, at::Device device)
      : recipe_(recipe), required_(set.augmentation) {
    if (set.no_augment_mask.defined() && required_ != data::Augmentation{})
      no_augment_ = set.no_augment_mask.to(device);
    if (set.no_flip_mask.defined() && recipe.flip) no_flip_ = set.no_flip_mask.to(device);
  }

  /// Returns the augmented images of one step.
  /// \param images float N×C×H×W in [0, 1]
  /// \param indices int64 N: the position of each image in the training set, on the device of
  ///   `images`
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& indices, std::uint64_t seed,
                        std::int64_t step) const {
    const auto select = [&](const at::Tensor& mask, const at::Tensor& yes, const at::Tensor& no) {
      return at::where(mask.index_select(0, indices).view({-1, 1, 1, 1}), yes, no);
    };
    const std::uint64_t recipe_seed = step_seed(seed, "augmentation", step);
    at::Tensor augmented = data::augment(images, recipe_, recipe_seed);
    if (no_flip_.defined()) {
      data::Augmentation others = recipe_;
      others.flip = false;
      augmented = select(no_flip_, data::augment(images, others, recipe_seed), augmented);
    }
    if (required_ == data::Augmentation{}) return augmented;
    const at::Tensor with_required =
        data::augment(augmented, required_, step_seed(seed, "asked augmentation", step));
    return no_augment_.defined() ? select(no_augment_, augmented, with_required) : with_required;
  }

  /// Mixes rows that belong to the images of a step, float N×K, as the recipe mixes the images. (A
  /// training set requires no mixing.)
  at::Tensor mix_rows(const at::Tensor& rows, std::uint64_t seed, std::int64_t step) const {
    return data::mix_rows(rows, recipe_, step_seed(seed, "augmentation", step));
  }

 private:
  static std::uint64_t step_seed(std::uint64_t seed, const char* purpose, std::int64_t step) {
    return derived_seed(seed, purpose, static_cast<std::uint64_t>(step));
  }

  data::Augmentation recipe_, required_ = {};
  at::Tensor no_augment_, no_flip_;  ///< bool, one entry per image of the set; undefined: none
};

/// The images of a step and their place in the run, on the module's device.
struct Batch {
  at::Tensor images;   ///< float N×C×H×W in [0, 1], augmented, channels last
  at::Tensor plain;    ///< the same images without augmentation
  at::Tensor indices;  ///< int64 N: their positions in the training set
  std::int64_t step;   ///< from 0, over all epochs
  bool first_epoch;
};

/// The results of a step.
struct BatchResult {
  at::Tensor loss;     ///< no dimensions, with gradient
  at::Tensor correct;  ///< number of correct answers, as a tensor so that nothing waits for the device
};

/// The teacher's answers to the batches of a run, as `Recipe::teacher` has it.
class TeacherAnswers {
 public:
  /// \param recipe must outlive this object
  /// \param images number of images in the training set
  TeacherAnswers(const Recipe& recipe, std::int64_t images) : recipe_(recipe), images_(images) {}

  /// Returns the teacher's logits for a batch, float N×classes, without gradient.
  /// \param forward float images in [0, 1] → logits
  template <typename Forward>
  at::Tensor operator()(const Batch& batch, const BatchAugmentation& augmentation, Forward&& forward) {
    c10::NoGradGuard no_grad;
    if (recipe_.teacher == TeacherInput::augmented) return forward(batch.images).to(at::kFloat);
    if (batch.first_epoch) {
      const at::Tensor logits =
          forward(batch.plain.contiguous(at::MemoryFormat::ChannelsLast)).to(at::kFloat);
      if (!answers_.defined()) answers_ = at::empty({images_, logits.size(1)}, logits.options());
      answers_.index_copy_(0, batch.indices, logits);
    }
    const at::Tensor logits = answers_.index_select(0, batch.indices);
    if (recipe_.augmentation.mix == 0) return logits;
    // Mix probabilities, at temperature 1 whatever the objective's; their logarithms are logits
    // again.
    return augmentation.mix_rows(logits.softmax(1), recipe_.seed, batch.step)
        .clamp_min_(std::numeric_limits<float>::min())
        .log_();
  }

 private:
  const Recipe& recipe_;
  std::int64_t images_;
  at::Tensor answers_;  ///< float images×classes
};

/// Returns the training images where batches are gathered from: on `device`, or on the host if they
/// need more than half of the device's free memory, since the network needs the rest. The batches
/// are the same.
inline at::Tensor place_images(const at::Tensor& bytes, at::Device device) {
  return bytes.nbytes() <= nn::free_memory(device) / 2 ? bytes.to(device) : bytes;
}

/// Trains a module: the loop of `fit` and `train_classifier`.
/// \param targets `Batch` → tensor with one row per image, without gradient
/// \param learn (images, targets) → `BatchResult`
/// \param cuda_graph_safe whether `learn` may be recorded as a CUDA graph and replayed
template <typename Targets, typename Learn, typename... Observers>
void train(const RunInfo& run, torch::nn::Module& module, at::Device device, const at::Tensor& bytes,
           const Optimization& optimization, const BatchAugmentation& augmentation, std::uint64_t seed,
           Targets&& targets, Learn&& learn, bool cuda_graph_safe, Observers&... observers) {
  const std::int64_t n = bytes.size(0);
  if (n < 2) throw Error("cannot train the {}: too few images (got {}, expected 2 or more)", run.name, n);
  // BatchNorm cannot learn from a single value per channel.
  const auto batches = data::views::batches(optimization.batch_size, data::LastBatch::join_single);
  const std::int64_t per_epoch = (bytes | batches).size(), steps = per_epoch * optimization.epochs;
  const auto begin = std::chrono::steady_clock::now();

  const at::Tensor source = place_images(bytes, device);
  Optimizers optimizers(module, optimization);
  if (optimizers.empty()) {
    throw Error("cannot train the {}: its network has no parameters to train; choose another network",
                run.name);
  }
  struct ScopedTraining {  // leaves training mode also when an exception is thrown
    torch::nn::Module& module;
    explicit ScopedTraining(torch::nn::Module& m) : module(m) { module.train(); }
    ~ScopedTraining() { module.eval(); }
  } scoped_training(module);
  notify_begin({run.name, optimization.epochs, per_epoch, n, run.accuracy_of}, observers...);

  nn::ScopedTorchSeed torch_seed(device);
  const at::Tensor loss = at::zeros({}, at::TensorOptions(device).dtype(at::kDouble)),
                   correct = at::zeros({}, at::TensorOptions(device).dtype(at::kLong));
  const auto work = [&](const at::Tensor& images, const at::Tensor& target) {
    const BatchResult result = learn(images, target);
    optimizers.zero_grad();
    result.loss.backward();
    optimizers.step();
    loss.add_(result.loss.detach(), static_cast<double>(images.size(0)));
    correct.add_(result.correct);
  };
  nn::CudaGraphRunner take_step(device, cuda_graph_safe, work);
  std::int64_t step = 0, seen = 0;
  for (int epoch = 0; epoch < optimization.epochs; ++epoch) {
    loss.zero_();
    correct.zero_();
    double factor = 1;
    std::int64_t in_epoch = 0;
    for (const data::Batch& batch :
         source | data::views::shuffled(derived_seed(seed, "order"), epoch) | batches) {
      const at::Tensor device_indices = nn::to_device_async(batch.indices, device);
      const at::Tensor plain = data::to_float(nn::to_device_async(batch.images, device), device);
      const at::Tensor images =
          augmentation(plain, device_indices, seed, step).contiguous(at::MemoryFormat::ChannelsLast);
      const at::Tensor target = targets(Batch{images, plain, device_indices, step, epoch == 0});
      torch_seed.seed(derived_seed(seed, "dropout", static_cast<std::uint64_t>(step)));

      factor = optimization.rate_factor(step, steps, epoch);
      optimizers.set_rate_factor(factor);
      take_step(images, target);
      ++step;
      seen += batch.size();
      notify_step({epoch + 1, ++in_epoch, seen}, observers...);
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    const EpochInfo info{epoch + 1, loss.item<double>() / static_cast<double>(n),
                         static_cast<double>(correct.item<std::int64_t>()) / static_cast<double>(n),
                         optimization.lr * factor, elapsed.count()};
    if (!std::isfinite(info.loss)) {
      throw Error(
          "training the {} diverged: the loss is not finite (got {} in epoch {}); "
          "lower the recipe's learning rates, lr is {}",
          run.name, info.loss, info.epoch, optimization.lr);
    }
    notify_epoch(info, observers...);
  }
  notify_end(observers...);
}

}  // namespace refine::detail
