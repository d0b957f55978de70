#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <atomic>
#include <concepts>
#include <functional>
#include <memory>
#include <utility>

namespace refine::nn {

/// True if a policy declares that its `forward` can be recorded as a CUDA graph.
///
/// A policy declares it by a member `cuda_graph_safe = true`: for every batch of one shape the
/// device gets the same work; no host code depends on the images, on a random draw or on the number
/// of calls; and nothing waits for the device.
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

/// Returns the process-wide setting of `enable_cuda_graphs`.
inline std::atomic<bool>& cuda_graphs_enabled() {
  static std::atomic<bool> allowed = true;
  return allowed;
}

/// Records a function of two tensors and replays it.
class Recorder {
 public:
  virtual ~Recorder() = default;

  /// Replays the work if it can.
  /// \return false if the caller has to do the work, as for tensors of other shapes than those
  ///   recorded
  virtual bool take(const at::Tensor& first, const at::Tensor& second,
                    const std::function<void(const at::Tensor&, const at::Tensor&)>& work) = 0;
};

/// Returns a recorder for a CUDA device, or null for other devices and without
/// `REFINE_CUDA_GRAPHS`.
std::unique_ptr<Recorder> make_recorder(at::Device device);

}  // namespace detail

/// Sets, for the process, whether training may use CUDA graphs. It may by default.
///
/// Pass false to save memory: a graph takes as much again as a step.
inline void enable_cuda_graphs(bool yes) {
  detail::cuda_graphs_enabled() = yes;
}

/// Runs a function of two tensors repeatedly, as a CUDA graph where possible.
///
/// With a CUDA device and a library built with `REFINE_CUDA_GRAPHS` (which needs CUDA's headers,
/// and `libtorch_cuda` for linking) the function is recorded after a few calls and replayed from
/// then on for tensors of the same shapes, which saves the host's time for launching a thousand
/// small kernels. Otherwise, and for other shapes, it is called.
///
/// All other tensors that the function reads or writes must keep their addresses. While the object
/// exists, another stream is current, since the default stream cannot be recorded.
template <std::invocable<const at::Tensor&, const at::Tensor&> Work>
class CudaGraphRunner {
 public:
  /// \param device where the tensors are
  /// \param may_replay whether the function is safe to record (`is_replayable`)
  /// \param work the function
  CudaGraphRunner(at::Device device, bool may_replay, Work work)
      : recorder_(may_replay && detail::cuda_graphs_enabled() ? detail::make_recorder(device) : nullptr),
        work_(std::move(work)) {}

  CudaGraphRunner(const CudaGraphRunner&) = delete;
  CudaGraphRunner& operator=(const CudaGraphRunner&) = delete;

  /// Runs the function.
  /// \throws Error if it cannot be recorded: something in it waits for the device
  /// \throws c10::OutOfMemoryError if memory is short for it
  void operator()(const at::Tensor& first, const at::Tensor& second) {
    if (recorder_ && recorder_->take(first, second, std::ref(work_))) return;
    work_(first, second);
  }

  /// Releases the recording and its memory. The function is called from now on.
  void release() { recorder_.reset(); }

 private:
  std::unique_ptr<detail::Recorder> recorder_;
  Work work_;
};

}  // namespace refine::nn

#if !defined(REFINE_COMPILED_LIB)
#include <refine/nn/impl/cuda_graph.ipp>
#endif
