#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <atomic>
#include <concepts>
#include <functional>
#include <memory>
#include <utility>

namespace refine::nn {

/// Whether a policy says of itself that its `forward` gives a device the same work for every batch of one
/// shape: no host code in it depends on the images, on a draw or on how often it was called, and nothing
/// waits for the device. A policy says so by a member `cuda_graph_safe`; one that is silent is not.
template <typename Policy>
constexpr bool is_replayable(const Policy& policy) {
  if constexpr (requires {
                  { policy.cuda_graph_safe } -> std::convertible_to<bool>;
                }) {
    return policy.cuda_graph_safe;
  } else {
    return false;
  }
}

namespace detail {

inline std::atomic<bool>& replay_allowed() {
  static std::atomic<bool> allowed = true;
  return allowed;
}

/// Records work on two tensors and replays it.
class Recorder {
 public:
  virtual ~Recorder() = default;

  /// Returns whether the work has been done, by a replay. Tensors of other shapes than the first are left to
  /// the caller.
  virtual bool take(const at::Tensor& first, const at::Tensor& second,
                    const std::function<void(const at::Tensor&, const at::Tensor&)>& work) = 0;
};

/// Returns a recorder of the device's work, or nothing where there is none: on other devices than CUDA's, and
/// where the library is built without CUDA graphs. The one place that depends on how it is built.
std::unique_ptr<Recorder> make_recorder(at::Device device);

}  // namespace detail

/// Says once, for the process, whether training may replay what policies say is `cuda_graph_safe`; it may, unless
/// this says no. Say no where a graph's memory, as much as a step takes again, is not to be had.
inline void enable_cuda_graphs(bool yes) {
  detail::replay_allowed() = yes;
}

/// Work on two tensors that is done again and again. On a CUDA device, where it `may_replay` and the library
/// is built with `REFINE_CUDA_GRAPHS` (CUDA's headers are needed, and `libtorch_cuda` when linking), it is
/// recorded as a CUDA graph once it has been done a few times, and replayed from then on for tensors of the
/// same shapes: the device need not wait until the host has said each of a thousand small things. Everywhere
/// else, and for tensors of other shapes than the first, it is called.
///
/// What it reads besides its arguments and what it changes must stay where it is in memory. As long as this
/// lives, the current stream is one of its own, since the default stream can't be recorded.
template <std::invocable<const at::Tensor&, const at::Tensor&> Work>
class CudaGraphRunner {
 public:
  CudaGraphRunner(at::Device device, bool may_replay, Work work)
      : recorder_(may_replay && detail::replay_allowed() ? detail::make_recorder(device) : nullptr),
        work_(std::move(work)) {}

  CudaGraphRunner(const CudaGraphRunner&) = delete;
  CudaGraphRunner& operator=(const CudaGraphRunner&) = delete;

  /// \throws Error when the work can't be recorded, since something in it waits for the device or memory is
  /// short
  void operator()(const at::Tensor& first, const at::Tensor& second) {
    if (recorder_ && recorder_->take(first, second, std::ref(work_))) return;
    work_(first, second);
  }

 private:
  std::unique_ptr<detail::Recorder> recorder_;
  Work work_;
};

}  // namespace refine::nn

#if !defined(REFINE_COMPILED_LIB)
#include <refine/nn/impl/cuda_graph.ipp>
#endif
