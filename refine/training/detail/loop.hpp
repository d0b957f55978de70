#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
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
#include <refine/data/detail/pixels.hpp>
#include <refine/data/training_set.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/nn/transfer.hpp>
#include <refine/training/detail/optimizers.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>

namespace refine {

/// Whether a precision comes to bfloat16 on a device.
inline bool uses_bfloat16(Precision precision, at::Device device) {
  return precision == Precision::bfloat16 || (precision == Precision::automatic && nn::has_bfloat16(device));
}

}  // namespace refine

namespace refine::detail {

/// How the images of a batch are changed before the network sees them: as the recipe says, then as the
/// training set asks, the images apart that it exempts. Those that may not be flipped get the recipe's other
/// changes by the same draws. What is off costs nothing.
class BatchAugmentation {
 public:
  explicit BatchAugmentation(const data::Augmentation& recipe) : recipe_(recipe) {}

  BatchAugmentation(const data::Augmentation& recipe, const data::TrainingSet& set, at::Device device);

  /// \param images float N×C×H×W in [0, 1], \param indices int64, which of the set they are, on their device
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& indices, std::uint64_t seed,
                        std::int64_t step) const;

  /// Rows that belong to the same batch, float N×K: mixed as the recipe mixes its images (a training set
  /// asks for no mixing).
  at::Tensor rows(const at::Tensor& rows, std::uint64_t seed, std::int64_t step) const;

 private:
  static std::uint64_t draws(std::uint64_t seed, const char* purpose, std::int64_t step);

  data::Augmentation recipe_, asked_ = {};
  at::Tensor exempt_, unflipped_;
};

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
  if (n < 2) throw Error("{} image(s) are too few to train the {} on; give it two at least", n, run.name);
  const data::Batches batches{.size = how.batch_size, .seed = derived_seed(seed, "order")};
  const auto per_epoch = static_cast<std::int64_t>(batches_of(batches, n, 0).size()),
             steps = per_epoch * how.epochs;
  const auto begin = std::chrono::steady_clock::now();

  const at::Tensor source = resident(bytes, device);
  Optimizers optimizers(module, how);
  if (optimizers.empty()) throw Error("the {} has no parameters to train; choose another network", run.name);
  struct BackToEvaluation {  // also after a failure
    torch::nn::Module& module;
    ~BackToEvaluation() { module.eval(); }
  } back_to_evaluation{module};
  module.train();
  notify_begin({run.name, how.epochs, per_epoch, n, run.accuracy_of}, observers...);

  nn::ScopedTorchSeed draws(device);
  const at::Tensor loss = at::zeros({}, at::TensorOptions(device).dtype(at::kDouble)),
                   right = at::zeros({}, at::TensorOptions(device).dtype(at::kLong));
  nn::CudaGraphRunner take_step(device, may_replay, [&](const at::Tensor& images, const at::Tensor& wanted) {
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
      const at::Tensor there = nn::to_device_async(indices, device);
      const at::Tensor plain = data::to_float(
          nn::to_device_async(source.index_select(0, source.is_cpu() ? indices : there), device), device);
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
          "training the {} diverged, its loss is {} in epoch {}; lower the recipe's learning rates, "
          "lr is {}",
          run.name, info.loss, info.epoch, how.lr);
    }
    notify_epoch(info, observers...);
  }
  notify_end(observers...);
}

/// What the victim says of a batch, as the recipe's `teacher` asks it: logits N×classes, float, without
/// gradient.
class TeacherAnswers {
 public:
  /// \param images how many the training set has
  TeacherAnswers(const Recipe& recipe, std::int64_t images) : recipe_(recipe), images_(images) {}

  /// \param ask float images in [0, 1] → logits
  template <typename Ask>
  at::Tensor operator()(const Batch& batch, const BatchAugmentation& augmented, Ask&& ask) {
    c10::NoGradGuard no_grad;
    if (recipe_.teacher == TeacherInput::augmented) return ask(batch.images).to(at::kFloat);
    if (batch.first_epoch) {
      const at::Tensor said = ask(batch.plain.contiguous(at::MemoryFormat::ChannelsLast)).to(at::kFloat);
      if (!known_.defined()) known_ = at::empty({images_, said.size(1)}, said.options());
      known_.index_copy_(0, batch.indices, said);
    }
    const at::Tensor said = known_.index_select(0, batch.indices);
    if (recipe_.augmentation.mix == 0) return said;
    // Probabilities are mixed, at temperature 1 whatever the objective's; their logarithms are logits again.
    return augmented.rows(said.softmax(1), recipe_.seed, batch.step)
        .clamp_min_(std::numeric_limits<float>::min())
        .log_();
  }

 private:
  const Recipe& recipe_;
  std::int64_t images_;
  at::Tensor known_;
};

inline BatchAugmentation::BatchAugmentation(const data::Augmentation& recipe, const data::TrainingSet& set,
                                            at::Device device)
    : recipe_(recipe), asked_(set.augmentation) {
  if (set.no_augment_mask.defined() && asked_ != data::Augmentation{})
    exempt_ = set.no_augment_mask.to(device);
  if (set.no_flip_mask.defined() && recipe.flip) unflipped_ = set.no_flip_mask.to(device);
}

inline at::Tensor BatchAugmentation::operator()(const at::Tensor& images, const at::Tensor& indices,
                                                std::uint64_t seed, std::int64_t step) const {
  const auto where = [&](const at::Tensor& mask, const at::Tensor& yes, const at::Tensor& no) {
    return at::where(mask.index_select(0, indices).view({-1, 1, 1, 1}), yes, no);
  };
  at::Tensor changed = data::augment(images, recipe_, draws(seed, "augmentation", step));
  if (unflipped_.defined()) {
    data::Augmentation others = recipe_;
    others.flip = false;
    changed = where(unflipped_, data::augment(images, others, draws(seed, "augmentation", step)), changed);
  }
  if (asked_ == data::Augmentation{}) return changed;
  const at::Tensor asked = data::augment(changed, asked_, draws(seed, "asked augmentation", step));
  if (!exempt_.defined()) return asked;
  return where(exempt_, changed, asked);
}

inline at::Tensor BatchAugmentation::rows(const at::Tensor& rows, std::uint64_t seed,
                                          std::int64_t step) const {
  return data::mix_rows(rows, recipe_, draws(seed, "augmentation", step));
}

inline std::uint64_t BatchAugmentation::draws(std::uint64_t seed, const char* purpose, std::int64_t step) {
  return derived_seed(seed, purpose, static_cast<std::uint64_t>(step));
}

}  // namespace refine::detail
