#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <functional>
#include <ostream>
#include <utility>

#include <refine/core/config.hpp>

namespace refine::nn {

namespace detail {

/// Stacks a tensor of K values of each process that shares a batch: processes×K, in their order, with
/// the same bits in each.
using StackOverRanks = std::function<at::Tensor(const at::Tensor&)>;

/// A batch of which this process has a part.
struct SharedBatch {
  StackOverRanks stack;                          ///< empty: BatchNorm of each process by itself
  std::int64_t first = 0, count = 0, total = 0;  ///< rows of this process, and of the whole batch
  at::Tensor random_state = {};  ///< of the generator after the last draw for dropout; undefined: not kept
  bool has_other_draws = false;  ///< found only while `random_state` is kept
};

/// Returns the batch of the innermost `ScopedSharedBatch` of this thread; null if there is none.
inline SharedBatch*& shared_batch() {
  static thread_local SharedBatch* batch = nullptr;
  return batch;
}

/// Computes BatchNorm in training mode, with the mean and variance of the images of all processes.
at::Tensor synchronized_batch_norm(torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x,
                                   const StackOverRanks& stack);

/// Computes dropout in training mode, with the random numbers of the whole batch.
at::Tensor shared_dropout(const at::Tensor& x, double share, SharedBatch& batch);

}  // namespace detail

/// While it exists, `batch_norm` and `dropout` in training mode compute, in this thread, what one
/// process with the whole batch would compute. The backward pass must end within its lifetime.
class ScopedSharedBatch {
 public:
  /// \param stack takes K values and returns those of all processes, processes×K; empty: BatchNorm
  ///   takes mean and variance of the images of each process
  explicit ScopedSharedBatch(detail::StackOverRanks stack)
      : batch_{.stack = std::move(stack)}, before_(std::exchange(detail::shared_batch(), &batch_)) {}

  ScopedSharedBatch(const ScopedSharedBatch&) = delete;
  ScopedSharedBatch& operator=(const ScopedSharedBatch&) = delete;

  ~ScopedSharedBatch() { detail::shared_batch() = before_; }

  /// Sets which images of the batch this process has: `count` from `first`, of `total`.
  void set_rows(std::int64_t first, std::int64_t count, std::int64_t total) {
    batch_.first = first;
    batch_.count = count;
    batch_.total = total;
  }

  /// Begins to look for draws from the default generator of a device that are not for `dropout`: they
  /// depend on the number of processes.
  REFINE_INLINE void watch_draws(at::Device device);

  /// Ends `watch_draws`. Returns true if there were such draws.
  REFINE_INLINE bool has_other_draws(at::Device device);

 private:
  detail::SharedBatch batch_;
  detail::SharedBatch* before_;
};

/// Computes `norm(x)`, within `ScopedSharedBatch` over the images of all processes.
/// \param norm a BatchNorm
/// \param x N×channels×H×W
inline at::Tensor batch_norm(torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x) {
  const detail::SharedBatch* const batch = detail::shared_batch();
  if (batch == nullptr || !batch->stack || !norm.is_training()) return norm.forward(x);
  return detail::synchronized_batch_norm(norm, x, batch->stack);
}

/// Sets a share of the values to 0 and enlarges the others, as `at::dropout` does in training mode;
/// within `ScopedSharedBatch` with the random numbers that the whole batch would have.
/// \param x N×…, or (N·K)×… with the K rows of an image together
/// \param share in [0, 1)
REFINE_INLINE at::Tensor dropout(const at::Tensor& x, double share);

/// The module of `dropout`, in the place of `torch::nn::Dropout`.
class DropoutImpl : public torch::nn::Cloneable<DropoutImpl> {
 public:
  /// \param share in [0, 1)
  explicit DropoutImpl(double share) : share_(share) {}

  void reset() override {}

  void pretty_print(std::ostream& out) const override { out << "refine::nn::Dropout(" << share_ << ")"; }

  /// Returns `dropout(x, share)` in training mode, else `x`.
  at::Tensor forward(const at::Tensor& x) { return is_training() ? dropout(x, share_) : x; }

 private:
  double share_;
};
TORCH_MODULE(Dropout);

}  // namespace refine::nn

#if !defined(REFINE_COMPILED_LIB)
#include <refine/nn/impl/shared_batch.ipp>
#endif
