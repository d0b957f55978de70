#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/Device.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
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
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/dataset.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/distributed/exchange.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/shared_batch.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/training/detail/optimizers.hpp>
#include <refine/training/detail/ranks.hpp>
#include <refine/training/detail/run_state.hpp>
#include <refine/training/detail/step_batches.hpp>
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

/// Checks that gradients can be computed.
/// \param what cannot be done otherwise, for the message
/// \throws Error in `c10::InferenceMode`
inline void refuse_inference_mode(std::string_view what) {
  if (c10::InferenceMode::is_enabled())
    throw Error("{}: nothing can be trained in c10::InferenceMode; call it outside of that", what);
}

/// Checks that gradients can be computed with a part of a training.
/// \param tensors what it computes with, by name
/// \throws Error if one of them was made in `c10::InferenceMode`
inline void refuse_inference_tensors(std::string_view function, std::string_view part,
                                     const std::map<std::string, at::Tensor>& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined() || !tensor.is_inference()) continue;
    throw Error(
        "{}: the {} was made in c10::InferenceMode (its tensor '{}' allows no gradients); make it outside of that",
        function, part, name);
  }
}

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

  void copy_from(const EpochSums& other) {
    loss.copy_(other.loss);
    correct.copy_(other.correct);
    lowest.copy_(other.lowest);
    highest.copy_(other.highest);
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
template <typename Targets, typename Learn, typename... Observers>
class TrainingLoop {
  using Ranks = std::remove_reference_t<decltype(distributed::detail::find_communicator(
      std::declval<Observers&>()...))>;
  static constexpr bool is_distributed = distributed::detail::is_distributed<Ranks>;

 public:
  /// As `train`.
  TrainingLoop(const TrainingRun& run, torch::nn::Module& module, at::Device device,
               const at::Tensor& examples, const Optimization& optimization,
               const BatchAugmentation& augmentation, std::uint64_t seed, Targets& targets, Learn& learn,
               Observers&... observers)
      : run_(run),
        module_(module),
        device_(device),
        optimization_(optimization),
        seed_(seed),
        targets_(targets),
        learn_(learn),
        observers_(observers...),
        ranks_(distributed::detail::find_communicator(observers...)),
        batches_(examples, optimization.batch_size, augmentation, seed, device, ranks_),
        steps_(batches_.steps_an_epoch() * optimization.epochs),
        optimizers_(module, optimization),
        training_mode_(module),
        sums_(device),
        all_sums_(device),
        state_{.steps = steps_},
        torch_seed_(device),
        buffers_(module) {
    if (optimizers_.empty()) {
      throw Error("cannot train the {}: its network has no parameters to train; choose another network",
                  name());
    }
    sums_.clear();
    all_sums_.clear();
    for (const auto& [name, tensor] : nn::state_dict(module, "module.")) {
      if (!is_finite(tensor)) continue;
      finite_at_start_.push_back(tensor);
      state_.finite.insert(name);
    }
  }

  /// \param cuda_graph_safe whether `learn` may be recorded as a CUDA graph and replayed
  void operator()(bool cuda_graph_safe) {
    open_store_and_restore();
    begin();
    recall();
    share_batches();
    nn::CudaGraphRunner take_step(
        device_, cuda_graph_safe && ranks_.size() == 1,
        [this](const at::Tensor& images, const at::Tensor& target) { learn_and_update(images, target); });
    for (int epoch = static_cast<int>(first_step_ / batches_.steps_an_epoch()); epoch < optimization_.epochs;
         ++epoch) {
      batches_.begin_epoch(epoch);
      std::int64_t in_epoch = state_.step % batches_.steps_an_epoch();
      if (in_epoch == 0) sums_.clear();
      while (in_epoch < batches_.steps_an_epoch()) {
        step(epoch, take_step);
        ++state_.step;
        ++in_epoch;
        after_step(epoch, in_epoch);
      }
    }
    constexpr std::int64_t few_steps = 500;
    if (steps_ < few_steps && !fits_into_memory([&] { average_statistics(); })) fail_out_of_memory();
    end();
  }

 private:
  std::string_view name() const { return run_.info.name; }

  static bool is_finite(const at::Tensor& tensor) {
    return !tensor.is_floating_point() || tensor.isfinite().all().item<bool>();
  }

  /// Calls a function with the observers.
  template <typename Call>
  auto observe(Call&& call) const {
    return std::apply(call, observers_);
  }

  void warn(const std::string& text) const {
    observe([&](auto&... observers) { notify_warning(text, observers...); });
  }

  void open_store_and_restore() {
    const auto identity = [&] {
      RunIdentity whole = run_.identity();
      whole.network += nn::code_of(module_);
      for (const auto& buffer : module_.named_buffers()) whole.computed.insert("module." + buffer.key());
      whole.ranks = ranks_.size();
      if (ranks_.size() > 1 && !optimization_.sync_batch_norm) whole.statistics_of = ranks_.size();
      return whole;
    };
    if constexpr (is_distributed) {
      if (ranks_.size() > 1) check_run(ranks_, identity(), module_, batches_.images(), optimization_);
    }
    distributed::on_first_rank(
        ranks_, [&] { store_ = observe([](auto&... observers) { return open_store(observers...); }); });
    has_store_ = distributed::copy_number(ranks_, store_ != nullptr) != 0;
    if (ranks_.restarts() > 0 && !has_store_) {
      throw Error(
          "training the {}: the launcher has started the ranks again after a failure, and without checkpoints the run "
          "would silently begin anew (got restart {}, expected 0); pass a Checkpoint, or start with --max-restarts 0",
          name(), ranks_.restarts());
    }
    if (has_store_ || ranks_.size() > 1) {
      state_.tensors = nn::state_dict(module_, "module.");
      for (const auto& [key, tensor] : optimizers_.state()) state_.tensors["optimizer." + key] = tensor;
      const EpochSums& sums = ranks_.size() > 1 ? all_sums_ : sums_;  // a run may go on with other ranks
      state_.tensors["epoch.loss"] = sums.loss;
      state_.tensors["epoch.correct"] = sums.correct;
      state_.tensors["epoch.lowest"] = sums.lowest;
      state_.tensors["epoch.highest"] = sums.highest;
      distributed::on_first_rank(ranks_, [&] {
        if (store_) store_->restore(state_, identity());
      });
    }
    if constexpr (is_distributed) {
      if (ranks_.size() > 1) {
        copy_state(ranks_, state_);
        if (ranks_.rank() == 0) sums_.copy_from(all_sums_);  // what the other ranks add begins at zero
        optimizers_.divide_kernels(ranks_.rank(), ranks_.size());
      }
    }
    first_step_ = state_.step;
    seconds_before_ = state_.seconds;
    judged_after_ = std::max<std::int64_t>(100, steps_ / 10);
    knows_progress_ = first_step_ > judged_after_;
  }

  void begin() {
    info_ = run_.info;
    info_.epochs = optimization_.epochs;
    info_.batches = batches_.steps_an_epoch();
    info_.images = batches_.images();
    info_.done = batches_.images_of(first_step_);
    observe([&](auto&... observers) { notify_begin(info_, observers...); });
    send_messages();
    for (const EpochInfo& earlier : state_.history)
      observe([&](auto&... observers) { notify_epoch(earlier, observers...); });
  }

  /// Passes on what the store has to say.
  void send_messages() const {
    if (!store_) return;
    for (const RunMessage& message : store_->take_messages()) {
      observe([&](auto&... observers) {
        message.is_warning ? notify_warning(message.text, observers...)
                           : notify_note(message.text, observers...);
      });
    }
  }

  /// Computes again what an interrupted run kept of the steps that it has taken.
  void recall() {
    if (!run_.recall || first_step_ == 0) return;
    batches_.begin_epoch(0);
    for (std::int64_t step = 0; step < std::min(first_step_, batches_.steps_an_epoch()); ++step)
      run_.recall(batches_.plain_at(step));
  }

  /// With several ranks, makes BatchNorm, dropout and gradients those of the whole batch.
  void share_batches() {
    if constexpr (is_distributed) {
      if (ranks_.size() == 1) return;
      shared_batch_.emplace(optimization_.sync_batch_norm
                                ? [this](const at::Tensor& row) { return distributed::stack(ranks_, row); }
                                : nn::detail::StackOverRanks());
      gradients_.emplace(ranks_, optimizers_.parameters(), optimizers_.owners());
    }
  }

  void seed_dropout(std::int64_t step) {
    torch_seed_.seed(derived_seed(seed_, "dropout", static_cast<std::uint64_t>(step)));
  }

  /// Returns the images of a step, and has BatchNorm and dropout of several ranks know of them.
  Batch load_batch(std::int64_t step) {
    Batch batch = batches_.at(step);
    if (batch.share.is_part()) {
      batch_total_ = batch.share.total;
      shared_batch_->set_rows(batch.share.first, batch.share.count, batch.share.total);
    }
    return batch;
  }

  /// Returns false if there is not enough memory, and nothing but buffers has changed.
  template <typename Part>
  bool fits_into_memory(Part&& part_of_step) {
    is_updating_ = false;
    try {
      part_of_step();
      return true;
    } catch (const std::exception& error) {
      if (is_updating_ || !nn::is_out_of_memory(error)) throw;
    }
    return false;
  }

  template <typename TakeStep>
  void step(int epoch, TakeStep& take_step) {
    Batch inputs;
    at::Tensor& target = target_;
    if (!fits_into_memory([&] {
          inputs = load_batch(state_.step);
          target = targets_(inputs);
        })) {
      fail_out_of_memory();
    }
    seed_dropout(state_.step);
    rate_factor_ = optimization_.rate_factor(state_.step, steps_, epoch);
    optimizers_.set_rate_factor(rate_factor_);
    buffers_.save();
    const auto again = [&] {
      buffers_.restore();
      seed_dropout(state_.step);
    };
    if (!in_parts_ && !fits_into_memory([&] { take_step(inputs.images, target); })) {
      optimizers_.zero_grad();  // releases what the backward pass has left
      // Another rank may have enough, and waits for the exchanges of this step.
      if (!run_.learn_in_parts || ranks_.size() > 1) fail_out_of_memory();
      in_parts_ = true;
      take_step.release();
      warn(
          "memory is short: activations are computed twice, which takes longer; the batches are the same, and the "
          "result may differ in the last bits");
      again();
    }
    if (in_parts_ && !fits_into_memory([&] {
          optimizers_.zero_grad();
          update(run_.learn_in_parts(inputs.images, target, again), inputs.images.size(0));
        })) {
      fail_out_of_memory();
    }
  }

  void learn_and_update(const at::Tensor& images, const at::Tensor& target) {
    if constexpr (is_distributed) {
      if (ranks_.size() > 1) {
        learn_part_and_update(images, target);
        return;
      }
    }
    const BatchResult result = learn_(images, target);
    optimizers_.zero_grad();
    result.loss.backward();
    update(result, images.size(0));
  }

  /// The same with several ranks. The sums over ranks are the loss of the whole batch and its gradient.
  void learn_part_and_update(const at::Tensor& images, const at::Tensor& target) {
    if (state_.step == first_step_) shared_batch_->watch_draws(device_);
    const BatchResult result = learn_(images, target);
    if (state_.step == first_step_ && shared_batch_->has_other_draws(device_)) {
      throw Error(
          "training the {} with {} ranks: its network draws random numbers that depend on the number of ranks; "
          "use nn::dropout or nn::Dropout in the place of LibTorch's, or no dropout",
          name(), ranks_.size());
    }
    at::Tensor loss = result.loss * (static_cast<double>(images.size(0)) / static_cast<double>(batch_total_));
    at::Tensor share = loss.detach();
    if (result.batch_loss.defined()) {
      loss = loss + result.batch_loss;
      share = share + result.batch_loss.detach() / ranks_.size();
    }
    optimizers_.zero_grad();
    gradients_->backward(loss);
    update({share, result.correct, result.predicted}, batch_total_);
    copy_from_owners(ranks_, optimizers_.kernels(), optimizers_.kernel_owners());
  }

  void update(const BatchResult& result, std::int64_t images) {
    is_updating_ = true;
    optimizers_.step();
    sums_.add(result, images);
  }

  /// Judges the step that was taken, tells the observers, and saves or stops if it is due.
  void after_step(int epoch, std::int64_t in_epoch) {
    const std::int64_t seen = batches_.images_of(state_.step);
    observe([&](auto&... observers) { notify_step({epoch + 1, in_epoch, seen}, observers...); });
    const bool is_epoch_end = in_epoch == batches_.steps_an_epoch();
    bool is_due = store_ && store_->is_due();
    bool must_stop = observe([](auto&... observers) { return stop_requested(observers...); });
    const EpochSums& totals = share_sums(must_stop, is_due);
    const std::int64_t images = seen - static_cast<std::int64_t>(epoch) * batches_.images();  // of the epoch
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin_;
    state_.seconds = seconds_before_ + elapsed.count();
    // On other devices it is looked at only when they must be waited for.
    if (device_.is_cpu() || is_epoch_end || is_due || must_stop) {
      const double loss = totals.mean_loss(images);
      if (!std::isfinite(loss)) {
        require_finite_answers();
        fail_diverged("the loss is", loss, epoch + 1);
      }
    }
    check_weights(epoch + 1);
    if (is_epoch_end || images >= 500) check_progress(totals, images);
    if (is_epoch_end) end_epoch(epoch + 1, totals);
    if (has_store_ && (must_stop || is_due)) gather_momenta();
    if (must_stop) {
      if (store_) store_->save(state_);
      check_weights(epoch + 1);
      send_messages();
      throw Stopped(name(), state_.step, steps_, store_ ? store_->newest() : std::filesystem::path());
    }
    if (store_ && is_due) store_->begin_save(state_);
    send_messages();
  }

  /// Returns the sums of all ranks. A request of one rank becomes one of all.
  const EpochSums& share_sums(bool& must_stop, bool& is_due) {
    if constexpr (is_distributed) {
      if (ranks_.size() > 1) {
        add_up(ranks_, sums_, all_sums_, must_stop, is_due);
        return all_sums_;
      }
    }
    return sums_;
  }

  /// Warns, once, if the answers are no better than chance. Earlier, the learning rate may still be warming up.
  void check_progress(const EpochSums& totals, std::int64_t images) {
    if (knows_progress_ || !run_.chance || state_.step < std::min(steps_, judged_after_)) return;
    knows_progress_ = true;
    if (images < 100 || is_above_chance(totals, images)) return;
    warn(fmt::format("{}; {}{}, lr is {}", no_progress(totals, images),
                     state_.step < steps_ ? "if it does not improve, " : "", run_.after_warning,
                     optimization_.lr));
  }

  /// Stops a training whose answers are no better than chance in two epochs after half of its steps, unless most images are of one
  /// class: then a few right answers for the others come late.
  void require_progress(const EpochSums& totals, std::int64_t images) {
    const bool is_judged = run_.chance && 2 * state_.step >= steps_ && state_.step >= judged_after_;
    if (!is_judged || state_.step == steps_ || images < 1000 || run_.chance() > 0.5) return;
    epochs_by_chance_ = is_above_chance(totals, images) ? 0 : epochs_by_chance_ + 1;
    if (epochs_by_chance_ < 2) return;
    throw Error("{}; {}, lr is {}{}", no_progress(totals, images), run_.after_warning, optimization_.lr,
                last_checkpoint(store_.get()));
  }

  /// True if more answers are right than a guess has by chance, by two standard deviations, or if there is one class.
  bool is_above_chance(const EpochSums& totals, std::int64_t images) const {
    const double chance = run_.chance();
    const double spread = 2 * std::sqrt(chance * (1 - chance) / static_cast<double>(images));
    return chance >= 1 || totals.accuracy(images) > chance + spread;
  }

  std::string no_progress(const EpochSums& totals, std::int64_t images) const {
    return fmt::format(
        "after {} of {} steps the {} answers no better than chance ({} {:.1f} % on {} images, chance {:.1f} %)",
        state_.step, steps_, name(), info_.accuracy_of, 100 * totals.accuracy(images), images,
        100 * run_.chance());
  }

  /// \param epoch from 1
  void end_epoch(int epoch, const EpochSums& totals) {
    const std::int64_t n = batches_.images();
    const EpochInfo result{epoch, totals.mean_loss(n), totals.accuracy(n), optimization_.lr * rate_factor_,
                           state_.seconds};
    state_.history.push_back(result);
    observe([&](auto&... observers) { notify_epoch(result, observers...); });
    // Some images of every data set are of one class; few of them show nothing. A network that has
    // taken few steps answers with one class, too.
    state_.collapsed = result.accuracy < 0.9 && totals.has_one_class() ? state_.collapsed + n : 0;
    if (state_.collapsed >= 1000 && state_.step >= judged_after_) {
      throw Error(
          "training the {} has collapsed: all images of epoch {} are predicted as one class ({} {:.1f} %); lower "
          "the recipe's learning rates, lr is {}, or use another seed{}",
          name(), result.epoch, info_.accuracy_of, 100 * result.accuracy, optimization_.lr,
          last_checkpoint(store_.get()));
    }
    require_progress(totals, n);
  }

  /// \param epoch from 1
  void check_weights(int epoch) const {
    if (store_ && store_->has_diverged()) fail_weights(epoch);
  }

  /// \param epoch from 1
  [[noreturn]] void fail_weights(int epoch) const {
    fail_diverged("the weights are", std::numeric_limits<double>::quiet_NaN(), epoch);
  }

  /// Throws if a loss is not finite because the teacher's answers are not.
  void require_finite_answers() const {
    if (is_finite(target_)) return;
    throw Error(
        "training the {}: the loss is not finite because the victim's logits are not (is one the logarithm of a "
        "probability of 0?); wrap the victim in a backbone that returns finite logits",
        name());
  }

  [[noreturn]] void fail_diverged(std::string_view what, double got, int epoch) const {
    throw Error(
        "training the {} diverged: {} not finite (got {} in epoch {}); "
        "lower the recipe's learning rates, lr is {}{}",
        name(), what, got, epoch, optimization_.lr, last_checkpoint(store_.get()));
  }

  [[noreturn]] void fail_out_of_memory() const {
    throw OutOfMemory(name(), optimization_.batch_size, state_.step, last_checkpoint(store_.get()));
  }

  /// Gathers Muon's momenta from the ranks that update the kernels.
  void gather_momenta() {
    if constexpr (is_distributed) {
      if (ranks_.size() > 1)
        copy_from_owners(ranks_, optimizers_.kernel_momenta(), optimizers_.kernel_owners());
    }
  }

  /// The statistics of BatchNorm lag some tens of steps behind the weights. At the end of a short run they can be
  /// of another network, so they are computed anew (Wu and Johnson, 2021, `wu2021rethinking`).
  void average_statistics() {
    constexpr std::int64_t max_images = 4096;
    const c10::NoGradGuard no_grad;
    AveragedStatistics averaged(module_);
    if (averaged.empty()) return;
    batches_.begin_epoch(optimization_.epochs);
    // Batches of one size: each has the same share.
    const std::int64_t size = optimization_.batch_size;
    const std::int64_t whole = std::max<std::int64_t>(batches_.images() / size, 1);
    const std::int64_t count = std::min(whole, (max_images - 1) / size + 1);
    for (std::int64_t step = steps_; step < steps_ + count; ++step) {
      const Batch inputs = load_batch(step);
      seed_dropout(step);
      run_.forward(inputs.images);
    }
    averaged.keep();
  }

  void end() {
    if constexpr (is_distributed) {
      // Each rank has its own statistics without `sync_batch_norm`, and of networks that do not call
      // `nn::batch_norm`. Those of rank 0 are kept, as in a checkpoint.
      if (ranks_.size() > 1) {
        std::map<std::string, at::Tensor> all;
        for (const auto& buffer : module_.named_buffers()) all.emplace(buffer.key(), buffer.value());
        copy_from_first(ranks_, all);
      }
    }
    // The loss of the last step was computed before it changed the weights.
    if (!std::ranges::all_of(finite_at_start_, is_finite)) fail_weights(optimization_.epochs);
    if (has_store_) gather_momenta();
    if (store_) store_->save(state_);
    check_weights(optimization_.epochs);
    send_messages();
    observe([](auto&... observers) { notify_end(observers...); });
  }

  const TrainingRun& run_;
  torch::nn::Module& module_;
  at::Device device_;
  const Optimization& optimization_;
  std::uint64_t seed_;
  Targets& targets_;
  Learn& learn_;
  std::tuple<Observers&...> observers_;
  Ranks& ranks_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();

  StepBatches<Ranks> batches_;
  std::int64_t steps_;  ///< of the whole run
  Optimizers optimizers_;
  ScopedTraining training_mode_;
  EpochSums sums_, all_sums_;  ///< of this rank and of all
  RunState state_;
  std::unique_ptr<RunStore> store_ = {};  ///< with several ranks, of rank 0
  bool has_store_ = false;                ///< whether rank 0 has one
  nn::ScopedTorchSeed torch_seed_;
  SavedBuffers buffers_;
  std::vector<at::Tensor> finite_at_start_ = {};  ///< parameters and buffers; a mask may hold infinities
  at::Tensor target_ = {};                        ///< of the last step

  std::int64_t first_step_ = 0;  ///< the step at which the run was resumed
  double seconds_before_ = 0;    ///< that it had taken until then
  RunInfo info_ = {};
  double rate_factor_ = 1;         ///< of the last step
  std::int64_t judged_after_ = 0;  ///< the step from which on a training is judged
  bool knows_progress_ = false;
  int epochs_by_chance_ = 0;  ///< epochs in a row without progress
  bool is_updating_ = false;  ///< the step has changed parameters and cannot be computed again
  bool in_parts_ = false;     ///< activations are computed twice

  // With several ranks:
  std::int64_t batch_total_ = 0;                            ///< rows of the whole batch
  std::optional<nn::ScopedSharedBatch> shared_batch_ = {};  ///< BatchNorm and dropout of the whole batch
  std::optional<GradientExchange<Ranks>> gradients_ = {};
};

/// Trains a module with a `TrainingLoop`.
/// \param examples uint8 images N×C×H×W; or float features N×F, which are mixed and not otherwise
///   changed
/// \param targets `Batch` → tensor with one row per image, without gradient
/// \param learn (images, targets) → `BatchResult`
/// \param cuda_graph_safe whether `learn` may be recorded as a CUDA graph and replayed
template <typename Targets, typename Learn, typename... Observers>
void train(const TrainingRun& run, torch::nn::Module& module, at::Device device, const at::Tensor& examples,
           const Optimization& optimization, const BatchAugmentation& augmentation, std::uint64_t seed,
           Targets&& targets, Learn&& learn, bool cuda_graph_safe, Observers&... observers) {
  refuse_inference_mode(fmt::format("training the {}", run.info.name));
  const c10::AutoGradMode with_gradient(true);
  const nn::ScopedNoAutocastCache no_cache;
  if (examples.size(0) < 2) {
    throw Error("cannot train the {}: too few images (got {}, expected 2 or more)", run.info.name,
                examples.size(0));
  }
  const ScopedRunning running;  // until the last checkpoint is written
  TrainingLoop<std::remove_reference_t<Targets>, std::remove_reference_t<Learn>, Observers...> loop(
      run, module, device, examples, optimization, augmentation, seed, targets, learn, observers...);
  loop(cuda_graph_safe);
}

}  // namespace refine::detail
