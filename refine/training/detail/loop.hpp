#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/Device.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/distributed/exchange.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/shared_batch.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/nn/transfer.hpp>
#include <refine/training/detail/optimizers.hpp>
#include <refine/training/detail/ranks.hpp>
#include <refine/training/detail/run_state.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>

namespace refine::detail {

/// True if a precision means bfloat16 on this device.
inline bool uses_bfloat16(Precision precision, at::Device device) {
  return precision == Precision::bfloat16 || (precision == Precision::automatic && nn::has_bfloat16(device));
}

/// True if a network is computed in bfloat16 on this device. With `automatic`, one that cannot be is
/// computed in float32: a program may have operators that fail on the mixed types of autocast.
/// \param images uint8; two of them are tried
/// \param needs_gradient whether the gradient of the images is computed, too
/// \param network images → logits
/// \throws Error with `bfloat16`, if the network can be computed in float32 only
template <typename Network, typename... Observers>
bool computes_in_bfloat16(Precision precision, at::Device device, const at::Tensor& images,
                          bool needs_gradient, const Network& network, Observers&... observers) {
  if (!uses_bfloat16(precision, device)) return false;
  const auto compute = [&](bool bfloat16) {
    const c10::AutoGradMode with_gradient(needs_gradient);
    const at::Tensor few =
        data::to_float(images.narrow(0, 0, std::min<std::int64_t>(images.size(0), 2)), device)
            .contiguous(at::MemoryFormat::ChannelsLast)
            .requires_grad_(needs_gradient);
    at::Tensor logits;
    {
      const nn::Autocast autocast(device, bfloat16);
      logits = network(few).to(at::kFloat);
    }
    if (logits.requires_grad())
      torch::autograd::grad({logits.sum()}, {few}, {}, {}, false, /*allow_unused=*/true);
  };
  std::string why;
  try {
    compute(true);
    return true;
  } catch (const std::exception& error) {
    if (nn::is_out_of_memory(error)) return true;  // the training computes in parts then
    why = nn::describe_error(error);
  }
  compute(false);
  if (precision == Precision::bfloat16) {
    throw Error("precision: the victim cannot be computed in bfloat16 ({}); choose float32 or automatic",
                why);
  }
  notify_note("the victim cannot be computed in bfloat16 (" + why + "): float32 is used, which takes longer",
              observers...);
  return false;
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
  /// \param rows the place of the images in the batch of the step
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& indices, std::uint64_t seed,
                        std::int64_t step, const data::BatchRows& rows) const {
    const auto select = [&](const at::Tensor& mask, const at::Tensor& yes, const at::Tensor& no) {
      return at::where(mask.index_select(0, indices).view({-1, 1, 1, 1}), yes, no);
    };
    const std::uint64_t recipe_seed = step_seed(seed, "augmentation", step);
    at::Tensor augmented = data::augment(images, recipe_, recipe_seed, rows);
    if (no_flip_.defined()) {
      data::Augmentation others = recipe_;
      others.flip = false;
      augmented = select(no_flip_, data::augment(images, others, recipe_seed, rows), augmented);
    }
    if (required_ == data::Augmentation{}) return augmented;
    const at::Tensor with_required =
        data::augment(augmented, required_, step_seed(seed, "asked augmentation", step), rows);
    return no_augment_.defined() ? select(no_augment_, augmented, with_required) : with_required;
  }

  /// Returns the augmented images of a whole batch.
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& indices, std::uint64_t seed,
                        std::int64_t step) const {
    return (*this)(images, indices, seed, step, {.total = images.size(0)});
  }

  /// True if the result of an image depends on the one before it in the batch.
  bool has_mix() const { return recipe_.mix > 0; }

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

/// A rank's part of a batch.
struct BatchShare {
  std::int64_t first = 0, count = 0, total = 0;  ///< rows of the batch; total 0: there is one rank
  at::Tensor indices = {};                       ///< int64: as `Batch::indices`, of the whole batch
  /// Makes the rows of the whole batch, on every rank, from a rank's rows.
  std::function<at::Tensor(const at::Tensor&)> gather = {};

  bool is_part() const { return total > 0; }
};

/// The images of a step and their place in the run, on the module's device. With several ranks, those
/// of this rank.
struct Batch {
  at::Tensor images;   ///< float N×C×H×W in [0, 1], augmented, channels last; or features N×F, mixed
  at::Tensor plain;    ///< the same images without augmentation
  at::Tensor indices;  ///< int64 N: their positions in the training set
  std::int64_t step;   ///< from 0, over all epochs
  bool first_epoch;
  BatchShare share = {};  ///< with several ranks: what the tensors above are a part of
};

/// The results of a step.
struct BatchResult {
  at::Tensor loss;            ///< no dimensions, with gradient; with several ranks of this rank's rows
  at::Tensor correct;         ///< number of correct answers, as a tensor so that nothing waits for the device
  at::Tensor predicted = {};  ///< int64 N: the predicted classes; undefined: no collapse is looked for
  /// With several ranks: what is added to the loss, computed from the whole batch on every rank, with
  /// gradient for this rank's rows.
  at::Tensor batch_loss = {};
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
    if (batch.first_epoch && !is_complete_) remember(batch, forward);
    const BatchShare& share = batch.share;
    const at::Tensor logits = answers_.index_select(0, share.is_part() ? share.indices : batch.indices);
    const auto part = [&](const at::Tensor& rows) {
      return share.is_part() ? rows.narrow(0, share.first, share.count) : rows;
    };
    if (recipe_.augmentation.mix == 0) return part(logits);
    // Mix probabilities, at temperature 1 whatever the objective's; their logarithms are logits
    // again.
    return part(augmentation.mix_rows(logits.softmax(1), recipe_.seed, batch.step)
                    .clamp_min_(std::numeric_limits<float>::min())
                    .log_());
  }

  /// Stores the teacher's answers to all original images, so that it is not asked again.
  /// \param logits float images×classes, in the order of the training set
  void set(at::Tensor logits) {
    answers_ = std::move(logits);
    is_complete_ = true;
  }

  /// Stores the teacher's answers to the original images of a batch.
  /// \param forward float images in [0, 1] → logits
  template <typename Forward>
  void remember(const Batch& batch, Forward&& forward) {
    c10::NoGradGuard no_grad;
    at::Tensor logits = forward(batch.plain.contiguous(at::MemoryFormat::ChannelsLast)).to(at::kFloat);
    if (batch.share.is_part()) logits = batch.share.gather(logits);
    if (!answers_.defined()) answers_ = at::empty({images_, logits.size(1)}, logits.options());
    answers_.index_copy_(0, batch.share.is_part() ? batch.share.indices : batch.indices, logits);
  }

 private:
  const Recipe& recipe_;
  std::int64_t images_;
  at::Tensor answers_;  ///< float images×classes
  bool is_complete_ = false;
};

/// Returns the training images where batches are gathered from: on `device`, or on the host if they
/// need more than half of the device's free memory, since the network needs the rest. The batches
/// are the same.
inline at::Tensor place_images(const at::Tensor& bytes, at::Device device) {
  return bytes.nbytes() <= nn::free_memory(device) / 2 ? bytes.to(device) : bytes;
}

/// Computes a step, and adds its gradients to the parameters', in less memory: activations are
/// computed twice. It calls `again` before the second time, which draws and counts as the first did.
using LearnInParts = std::function<BatchResult(const at::Tensor& images, const at::Tensor& targets,
                                               const std::function<void()>& again)>;

/// What `train` needs to know of a run, apart from how a step is computed.
struct TrainingRun {
  RunInfo info;
  std::function<RunIdentity()> identity;                  ///< called if the run has checkpoints
  std::function<double()> chance;                         ///< accuracy of a guess; empty: not judged by it
  std::function<void(const at::Tensor& images)> forward;  ///< computes the module's results as a step does
  std::function<void(const Batch&)> recall = {};  ///< computes again what the run keeps of a batch of the
                                                  ///< first epoch, when it is resumed; empty: nothing
  LearnInParts learn_in_parts = {};  ///< for steps that do not fit into memory; empty: there is no way
  const char* after_warning = "";    ///< what to try if there is no progress
};

/// Leaves training mode also when an exception is thrown.
struct ScopedTraining {
  torch::nn::Module& module;
  explicit ScopedTraining(torch::nn::Module& m) : module(m) { module.train(); }
  ~ScopedTraining() { module.eval(); }
};

/// A module's buffers before a step, such as the statistics of BatchNorm: a step that is computed
/// again must not update them twice.
class SavedBuffers {
 public:
  explicit SavedBuffers(const torch::nn::Module& module) : buffers_(module.buffers()) {
    for (const at::Tensor& buffer : buffers_) copies_.push_back(buffer.detach().clone());
  }

  void save() { copy(buffers_, copies_); }
  void restore() { copy(copies_, buffers_); }

 private:
  /// In a few kernels, because it is done at every step.
  static void copy(const std::vector<at::Tensor>& from, const std::vector<at::Tensor>& to) {
    const c10::NoGradGuard no_grad;
    if (!from.empty()) at::_foreach_copy_(to, from);
  }

  std::vector<at::Tensor> buffers_, copies_;
};

/// While it exists, a module's BatchNorms average the statistics of all batches equally, and not the
/// latest ones. Afterwards, only their statistics have changed, and those of BatchNorms that were not
/// called have not.
class AveragedStatistics {
 public:
  explicit AveragedStatistics(torch::nn::Module& module) : buffers_(module) {
    module.apply([this](torch::nn::Module& part) {
      add<torch::nn::BatchNorm1dImpl>(part);
      add<torch::nn::BatchNorm2dImpl>(part);
      add<torch::nn::BatchNorm3dImpl>(part);
    });
    for (const auto& norm : norms_) norm.begin();  // after all: one that is registered twice is added twice
  }

  AveragedStatistics(const AveragedStatistics&) = delete;
  AveragedStatistics& operator=(const AveragedStatistics&) = delete;

  ~AveragedStatistics() {
    for (const auto& norm : norms_) norm.end();
  }

  /// True if there is nothing to average.
  bool empty() const { return norms_.empty(); }

  /// Keeps the averages, and restores all other buffers.
  void keep() {
    std::vector<std::pair<at::Tensor, at::Tensor>> averages;
    for (const auto& norm : norms_) {
      if (norm.batches.item<std::int64_t>() == 0) continue;
      for (const at::Tensor& statistic : norm.statistics) averages.emplace_back(statistic, statistic.clone());
    }
    buffers_.restore();
    for (const auto& [statistic, average] : averages) statistic.copy_(average);
  }

 private:
  struct Norm {
    std::vector<at::Tensor> statistics;  ///< running mean and variance
    at::Tensor batches;                  ///< number of batches that they have seen
    std::function<void()> begin, end;
  };

  template <typename Impl>
  void add(torch::nn::Module& part) {
    auto* const norm = dynamic_cast<Impl*>(&part);
    if (norm == nullptr || !norm->is_training() || !norm->running_mean.defined()) return;
    norms_.push_back(
        {.statistics = {norm->running_mean, norm->running_var},
         .batches = norm->num_batches_tracked,
         .begin =
             [norm] {
               norm->options.momentum(std::nullopt);  // equal shares
               norm->reset_running_stats();
             },
         .end = [norm, momentum = norm->options.momentum()] { norm->options.momentum(momentum); }});
  }

  SavedBuffers buffers_;
  std::vector<Norm> norms_;
};

/// The running sums of an epoch, on the device. They are updated without waiting for it.
struct EpochSums {
  at::Tensor loss, correct, lowest, highest;

  explicit EpochSums(at::Device device)
      : loss(at::zeros({}, at::TensorOptions(device).dtype(at::kDouble))),
        correct(at::zeros({}, at::TensorOptions(device).dtype(at::kLong))),
        lowest(at::zeros_like(correct)),
        highest(at::zeros_like(correct)) {}

  void clear() {
    loss.zero_();
    correct.zero_();
    lowest.fill_(std::numeric_limits<std::int64_t>::max());
    highest.fill_(-1);
  }

  void add(const BatchResult& result, std::int64_t images) {
    loss.add_(result.loss.detach(), static_cast<double>(images));
    correct.add_(result.correct);
    if (!result.predicted.defined()) return;
    at::minimum_out(lowest, lowest, result.predicted.min());
    at::maximum_out(highest, highest, result.predicted.max());
  }

  double mean_loss(std::int64_t images) const { return loss.item<double>() / static_cast<double>(images); }

  double accuracy(std::int64_t images) const {
    return static_cast<double>(correct.item<std::int64_t>()) / static_cast<double>(images);
  }

  /// True if all images of the epoch so far were predicted as one class; false if that is not known.
  bool has_one_class() const { return lowest.item<std::int64_t>() == highest.item<std::int64_t>(); }
};

/// Adds up the sums of an epoch over all ranks. A request of one rank becomes one of all.
template <distributed::Communicator Ranks>
void add_up(Ranks& ranks, const EpochSums& own, EpochSums& all, bool& must_stop, bool& is_due) {
  constexpr std::int64_t no_class = std::int64_t{1} << 50;  // a double holds it
  const at::Tensor row =
      at::stack({own.loss, own.correct.to(at::kDouble), own.lowest.clamp_max(no_class).to(at::kDouble),
                 own.highest.to(at::kDouble)});
  const auto number = [&](bool request) { return at::full({1}, request ? 1.0 : 0.0, row.options()); };
  const at::Tensor rows = distributed::stack(ranks, at::cat({row, number(must_stop), number(is_due)}));
  all.loss.copy_(rows.select(1, 0).sum());
  all.correct.copy_(rows.select(1, 1).sum());
  all.lowest.copy_(rows.select(1, 2).min());
  all.highest.copy_(rows.select(1, 3).max());
  must_stop = rows.select(1, 4).max().item<double>() > 0;
  is_due = rows.select(1, 5).max().item<double>() > 0;
}

/// Returns a part of a message that names the newest checkpoint; empty if there is none.
inline std::string last_checkpoint(RunStore* store) {
  const std::filesystem::path file = store ? store->newest() : std::filesystem::path();
  return file.empty() ? "" : "; the last good checkpoint is " + file.string();
}

/// Trains a module: the loop of `fit` and `train_classifier`. All random draws are functions of the
/// seed, the epoch and the step, so a run that is resumed at a step draws what the first would have
/// drawn.
/// \param examples uint8 images N×C×H×W; or float features N×F, which are mixed and not otherwise
///   changed
/// \param targets `Batch` → tensor with one row per image, without gradient
/// \param learn (images, targets) → `BatchResult`
/// \param cuda_graph_safe whether `learn` may be recorded as a CUDA graph and replayed
template <typename Targets, typename Learn, typename... Observers>
void train(const TrainingRun& run, torch::nn::Module& module, at::Device device, const at::Tensor& examples,
           const Optimization& optimization, const BatchAugmentation& augmentation, std::uint64_t seed,
           Targets&& targets, Learn&& learn, bool cuda_graph_safe, Observers&... observers) {
  auto& ranks = distributed::detail::find_communicator(observers...);
  constexpr bool is_distributed = distributed::detail::is_distributed<decltype(ranks)>;
  const std::string_view name = run.info.name;
  const std::int64_t n = examples.size(0);
  if (n < 2) throw Error("cannot train the {}: too few images (got {}, expected 2 or more)", name, n);
  // BatchNorm cannot learn from a single value per channel.
  const auto batches = data::views::batches(optimization.batch_size, data::LastBatch::join_single);
  const std::int64_t per_epoch = (examples | batches).size(), steps = per_epoch * optimization.epochs;
  const auto begin = std::chrono::steady_clock::now();

  const at::Tensor source = place_images(examples, device);
  const bool are_features = examples.dim() == 2;
  const auto order = [&](int epoch) {
    return source | data::views::shuffled(derived_seed(seed, "order"), epoch) | batches;
  };
  Optimizers optimizers(module, optimization);
  if (optimizers.empty()) {
    throw Error("cannot train the {}: its network has no parameters to train; choose another network", name);
  }
  const ScopedTraining scoped_training(module);
  EpochSums sums(device);
  sums.clear();

  const auto identity = [&] {
    RunIdentity whole = run.identity();
    whole.network += nn::code_of(module);
    return whole;
  };
  RunState state{.steps = steps};
  std::unique_ptr<RunStore> store;  // with several ranks, of rank 0
  if constexpr (is_distributed) {
    if (ranks.size() > 1) check_run(ranks, identity(), module, n, optimization);
  }
  distributed::on_first_rank(ranks, [&] { store = open_store(observers...); });
  const bool has_store = distributed::copy_number(ranks, store != nullptr) != 0;
  if (ranks.restarts() > 0 && !has_store) {
    throw Error(
        "training the {}: the launcher has started the ranks again after a failure, and without checkpoints the run "
        "would silently begin anew (got restart {}, expected 0); pass a Checkpoint, or start with --max-restarts 0",
        name, ranks.restarts());
  }
  if (has_store || ranks.size() > 1) {
    state.tensors = nn::state_dict(module, "module.");
    for (const auto& [key, tensor] : optimizers.state()) state.tensors["optimizer." + key] = tensor;
    state.tensors["epoch.loss"] = sums.loss;
    state.tensors["epoch.correct"] = sums.correct;
    state.tensors["epoch.lowest"] = sums.lowest;
    state.tensors["epoch.highest"] = sums.highest;
    distributed::on_first_rank(ranks, [&] {
      if (store) store->restore(state, identity());
    });
  }
  if constexpr (is_distributed) {
    if (ranks.size() > 1) {
      copy_state(ranks, state);
      optimizers.divide_kernels(ranks.rank(), ranks.size());
    }
  }
  const std::int64_t first_step = state.step;
  const double seconds_before = state.seconds;
  const auto send_messages = [&] {
    if (!store) return;
    for (const RunMessage& message : store->take_messages()) {
      message.is_warning ? notify_warning(message.text, observers...)
                         : notify_note(message.text, observers...);
    }
  };
  const auto seen_after = [&](std::int64_t step) {  // only the last batch of an epoch has another size
    return step / per_epoch * n + step % per_epoch * optimization.batch_size;
  };
  RunInfo info = run.info;
  info.epochs = optimization.epochs;
  info.batches = per_epoch;
  info.images = n;
  info.done = seen_after(first_step);
  notify_begin(info, observers...);
  send_messages();
  for (const EpochInfo& earlier : state.history) notify_epoch(earlier, observers...);

  nn::ScopedTorchSeed torch_seed(device);
  const auto make_batch = [&](const data::Batch& batch, std::int64_t step, bool augmented) {
    const at::Tensor device_indices = nn::to_device_async(batch.indices, device);
    if (are_features) {
      const at::Tensor plain = nn::to_device_async(batch.images, device);
      return Batch{augmented ? augmentation.mix_rows(plain, seed, step) : plain, plain, device_indices, step,
                   step < per_epoch};
    }
    const at::Tensor plain = data::to_float(nn::to_device_async(batch.images, device), device);
    const at::Tensor images =
        augmented ? augmentation(plain, device_indices, seed, step).contiguous(at::MemoryFormat::ChannelsLast)
                  : plain;
    return Batch{images, plain, device_indices, step, step < per_epoch};
  };
  // Reads only the rows of this rank and, where images are mixed, the one before them.
  const auto make_part = [&](const data::ExampleView& shuffled, std::int64_t step) {
    const std::int64_t in_epoch = step % per_epoch, begin_row = in_epoch * optimization.batch_size,
                       total =
                           (in_epoch + 1 < per_epoch ? begin_row + optimization.batch_size : n) - begin_row;
    const auto own = distributed::rows_of_rank(total, ranks.rank(), ranks.size());
    const std::int64_t before = augmentation.has_mix() ? 1 : 0;
    const at::Tensor positions =
        at::arange(own.first - before, own.first + own.count, at::kLong).remainder(total);
    const data::Batch rows = shuffled.select(positions + begin_row).gather(0, own.count + before);
    Batch batch{{}, {}, {}, step, step < per_epoch, {}};
    batch.share = {.first = own.first,
                   .count = own.count,
                   .total = total,
                   .indices = nn::to_device_async(shuffled.indices(begin_row, total), device),
                   .gather = [&ranks, own, total](const at::Tensor& part) {
                     return distributed::gather_rows(ranks, part, own, total);
                   }};
    const auto drop = [&](const at::Tensor& all) { return all.narrow(0, before, own.count); };
    const at::Tensor indices = nn::to_device_async(rows.indices, device);
    at::Tensor images;
    if (are_features) {
      batch.plain = drop(nn::to_device_async(rows.images, device));
      images =
          augmentation.mix_rows(batch.share.gather(batch.plain), seed, step).narrow(0, own.first, own.count);
    } else {
      const at::Tensor plain = data::to_float(nn::to_device_async(rows.images, device), device);
      batch.plain = drop(plain);
      images = drop(augmentation(plain, indices, seed, step, {.total = total, .positions = positions}))
                   .contiguous(at::MemoryFormat::ChannelsLast);
    }
    batch.images = images;
    batch.indices = drop(indices);
    return batch;
  };
  if (run.recall && first_step > 0) {
    const auto first_epoch = order(0);
    for (std::int64_t step = 0; step < std::min(first_step, per_epoch); ++step) {
      if constexpr (is_distributed) {
        if (ranks.size() > 1) {
          run.recall(make_part(source | data::views::shuffled(derived_seed(seed, "order"), 0), step));
          continue;
        }
      }
      run.recall(make_batch(first_epoch[step], step, /*augmented=*/false));
    }
  }

  // With several ranks:
  std::int64_t batch_total = 0;                       // rows of the whole batch, for `work`
  std::optional<nn::ScopedSharedBatch> shared_batch;  // BatchNorm and dropout of the whole batch
  std::optional<GradientExchange<std::remove_reference_t<decltype(ranks)>>> gradients;
  if constexpr (is_distributed) {
    if (ranks.size() > 1) {
      shared_batch.emplace(optimization.sync_batch_norm
                               ? [&ranks](const at::Tensor& row) { return distributed::stack(ranks, row); }
                               : nn::detail::StackOverRanks());
      gradients.emplace(ranks, optimizers.parameters(), optimizers.owners());
    }
  }
  // Muon's momenta, as the ranks have them that update the kernels.
  const auto gather_momenta = [&] {
    if constexpr (is_distributed) {
      if (ranks.size() > 1) copy_from_owners(ranks, optimizers.kernel_momenta(), optimizers.kernel_owners());
    }
  };
  bool is_updating = false;  // the step has changed parameters and cannot be computed again
  const auto update = [&](const BatchResult& result, std::int64_t images) {
    is_updating = true;
    optimizers.step();
    sums.add(result, images);
  };
  const auto work = [&](const at::Tensor& images, const at::Tensor& target) {
    if constexpr (is_distributed) {
      if (ranks.size() > 1) {
        if (state.step == first_step) shared_batch->watch_draws(device);
        const BatchResult result = learn(images, target);
        if (state.step == first_step && shared_batch->has_other_draws(device)) {
          throw Error(
              "training the {} with {} ranks: its network draws random numbers that depend on the number of ranks; "
              "use nn::dropout or nn::Dropout in the place of LibTorch's, or no dropout",
              name, ranks.size());
        }
        // The sums over ranks are the loss of the whole batch and its gradient.
        at::Tensor loss =
            result.loss * (static_cast<double>(images.size(0)) / static_cast<double>(batch_total));
        at::Tensor share = loss.detach();
        if (result.batch_loss.defined()) {
          loss = loss + result.batch_loss;
          share = share + result.batch_loss.detach() / ranks.size();
        }
        optimizers.zero_grad();
        gradients->backward(loss);
        update({share, result.correct, result.predicted}, batch_total);
        copy_from_owners(ranks, optimizers.kernels(), optimizers.kernel_owners());
        return;
      }
    }
    const BatchResult result = learn(images, target);
    optimizers.zero_grad();
    result.loss.backward();
    update(result, images.size(0));
  };
  const auto fail_diverged = [&](std::string_view what, double got, int epoch) {
    throw Error(
        "training the {} diverged: {} not finite (got {} in epoch {}); "
        "lower the recipe's learning rates, lr is {}{}",
        name, what, got, epoch, optimization.lr, last_checkpoint(store.get()));
  };
  const auto check_weights = [&](int epoch) {
    if (store && store->has_diverged())
      fail_diverged("the weights are", std::numeric_limits<double>::quiet_NaN(), epoch);
  };
  nn::CudaGraphRunner take_step(device, cuda_graph_safe && ranks.size() == 1, work);
  const auto seed_dropout = [&](std::int64_t step) {
    torch_seed.seed(derived_seed(seed, "dropout", static_cast<std::uint64_t>(step)));
  };
  // Returns the images of a step, and has BatchNorm and dropout of several ranks know of them.
  const auto load_batch = [&](const data::BatchView& batches_of_epoch, const data::ExampleView& shuffled,
                              std::int64_t step) {
    if constexpr (is_distributed) {
      if (ranks.size() > 1) {
        Batch part = make_part(shuffled, step);
        batch_total = part.share.total;
        shared_batch->set_rows(part.share.first, part.share.count, part.share.total);
        return part;
      }
    }
    return make_batch(batches_of_epoch[step % per_epoch], step, /*augmented=*/true);
  };
  SavedBuffers buffers(module);
  /// Returns false if there is not enough memory, and nothing but buffers has changed.
  const auto fits_into_memory = [&](auto&& part_of_step) {
    is_updating = false;
    try {
      part_of_step();
      return true;
    } catch (const std::exception& error) {
      if (is_updating || !nn::is_out_of_memory(error)) throw;
    }
    return false;
  };
  const auto fail_out_of_memory = [&] {
    throw OutOfMemory(name, optimization.batch_size, state.step, last_checkpoint(store.get()));
  };
  bool in_parts = false;
  // The sums of all ranks, and whether an observer of any rank has requested a stop.
  EpochSums all_sums(device);
  const auto share_sums = [&](bool& must_stop, bool& is_due) -> const EpochSums& {
    if constexpr (is_distributed) {
      if (ranks.size() > 1) {
        add_up(ranks, sums, all_sums, must_stop, is_due);
        return all_sums;
      }
    }
    return sums;
  };
  // Earlier, the learning rate may still be warming up.
  const std::int64_t judged_after = std::max<std::int64_t>(100, steps / 10);
  bool knows_progress = first_step > judged_after;
  for (int epoch = static_cast<int>(first_step / per_epoch); epoch < optimization.epochs; ++epoch) {
    std::int64_t in_epoch = state.step % per_epoch;
    if (in_epoch == 0) sums.clear();
    const data::ExampleView shuffled = source | data::views::shuffled(derived_seed(seed, "order"), epoch);
    const data::BatchView batches_of_epoch = shuffled | batches;
    while (in_epoch < per_epoch) {
      Batch inputs;
      at::Tensor target;
      if (!fits_into_memory([&] {
            inputs = load_batch(batches_of_epoch, shuffled, state.step);
            target = targets(inputs);
          })) {
        fail_out_of_memory();
      }
      seed_dropout(state.step);
      const double factor = optimization.rate_factor(state.step, steps, epoch);
      optimizers.set_rate_factor(factor);
      buffers.save();
      const auto again = [&] {
        buffers.restore();
        seed_dropout(state.step);
      };
      if (!in_parts && !fits_into_memory([&] { take_step(inputs.images, target); })) {
        optimizers.zero_grad();  // releases what the backward pass has left
        // Another rank may have enough, and waits for the exchanges of this step.
        if (!run.learn_in_parts || ranks.size() > 1) fail_out_of_memory();
        in_parts = true;
        take_step.release();
        notify_warning(
            "memory is short: activations are computed twice, which takes longer; the batches are the same, and the "
            "result may differ in the last bits",
            observers...);
        again();
      }
      if (in_parts && !fits_into_memory([&] {
            optimizers.zero_grad();
            update(run.learn_in_parts(inputs.images, target, again), inputs.images.size(0));
          })) {
        fail_out_of_memory();
      }
      ++state.step;
      ++in_epoch;
      const std::int64_t seen = seen_after(state.step);
      notify_step({epoch + 1, in_epoch, seen}, observers...);

      const bool is_epoch_end = in_epoch == per_epoch;
      bool is_due = store && store->is_due(), must_stop = stop_requested(observers...);
      const EpochSums& totals = share_sums(must_stop, is_due);
      const std::int64_t images = seen - static_cast<std::int64_t>(epoch) * n;  // of the epoch
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
      state.seconds = seconds_before + elapsed.count();
      // On other devices it is looked at only when they must be waited for.
      if (device.is_cpu() || is_epoch_end || is_due || must_stop) {
        const double loss = totals.mean_loss(images);
        if (!std::isfinite(loss)) fail_diverged("the loss is", loss, epoch + 1);
      }
      check_weights(epoch + 1);
      if (!knows_progress && run.chance && state.step >= std::min(steps, judged_after) &&
          (is_epoch_end || images >= 500)) {
        knows_progress = true;
        const double chance = run.chance(), accuracy = totals.accuracy(images);
        const double spread = 2 * std::sqrt(chance * (1 - chance) / static_cast<double>(images));
        if (images >= 100 && accuracy <= chance + spread) {
          notify_warning(
              fmt::format("after {} of {} steps the {} answers no better than chance ({} {:.1f} % on {} "
                          "images, chance {:.1f} %); {}{}, lr is {}",
                          state.step, steps, name, info.accuracy_of, 100 * accuracy, images, 100 * chance,
                          state.step < steps ? "if it does not improve, " : "", run.after_warning,
                          optimization.lr),
              observers...);
        }
      }
      if (is_epoch_end) {
        const EpochInfo result{epoch + 1, totals.mean_loss(n), totals.accuracy(n), optimization.lr * factor,
                               state.seconds};
        state.history.push_back(result);
        notify_epoch(result, observers...);
        // Some images of every data set are of one class; few of them show nothing. A network that has
        // taken few steps answers with one class, too.
        state.collapsed = result.accuracy < 0.9 && totals.has_one_class() ? state.collapsed + n : 0;
        if (state.collapsed >= 1000 && state.step >= judged_after) {
          throw Error(
              "training the {} has collapsed: all images of epoch {} are predicted as one class ({} {:.1f} %); lower "
              "the recipe's learning rates, lr is {}, or use another seed{}",
              name, result.epoch, info.accuracy_of, 100 * result.accuracy, optimization.lr,
              last_checkpoint(store.get()));
        }
      }
      if (has_store && (must_stop || is_due)) gather_momenta();
      if (must_stop) {
        if (store) store->save(state);
        check_weights(epoch + 1);
        send_messages();
        throw Stopped(name, state.step, steps, store ? store->newest() : std::filesystem::path());
      }
      if (store && is_due) store->begin_save(state);
      send_messages();
    }
  }
  // The statistics of BatchNorm lag some tens of steps behind the weights. At the end of a short run they can be
  // of another network, so they are computed anew (Wu and Johnson, 2021, `wu2021rethinking`).
  const auto average_statistics = [&] {
    constexpr std::int64_t max_images = 4096;
    const c10::NoGradGuard no_grad;
    AveragedStatistics averaged(module);
    if (averaged.empty()) return;
    const data::ExampleView shuffled =
        source | data::views::shuffled(derived_seed(seed, "order"), optimization.epochs);
    const data::BatchView batches_of_epoch = shuffled | batches;
    // Batches of one size: each has the same share.
    const std::int64_t whole = std::max<std::int64_t>(n / optimization.batch_size, 1);
    const std::int64_t count = std::min(whole, (max_images - 1) / optimization.batch_size + 1);
    for (std::int64_t step = steps; step < steps + count; ++step) {
      const Batch inputs = load_batch(batches_of_epoch, shuffled, step);
      seed_dropout(step);
      run.forward(inputs.images);
    }
    averaged.keep();
  };
  constexpr std::int64_t few_steps = 500;
  if (steps < few_steps && !fits_into_memory(average_statistics)) fail_out_of_memory();
  if constexpr (is_distributed) {
    // With BatchNorm of each rank, those of rank 0, as in a checkpoint.
    if (ranks.size() > 1 && !optimization.sync_batch_norm) {
      std::map<std::string, at::Tensor> all;
      for (const auto& buffer : module.named_buffers()) all.emplace(buffer.key(), buffer.value());
      copy_from_first(ranks, all);
    }
  }
  if (has_store) gather_momenta();
  if (store) store->save(state);
  check_weights(optimization.epochs);
  send_messages();
  notify_end(observers...);
}

}  // namespace refine::detail
