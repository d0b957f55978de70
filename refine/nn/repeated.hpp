#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <atomic>
#include <concepts>
#include <exception>
#include <optional>
#include <utility>

#if defined(REFINE_CUDA_GRAPHS)
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <refine/core/error.hpp>
#include <refine/core/one_line.hpp>
#include <refine/nn/lanes.hpp>
#endif

namespace refine::nn {

/// Whether a policy says of itself that its `forward` gives a device the same work for every batch of one
/// shape: no host code in it depends on the images, on a draw or on how often it was called, and nothing
/// waits for the device. A policy says so by a member `replayable`; one that is silent is not.
template <typename Policy>
constexpr bool is_replayable(const Policy& policy) {
  if constexpr (requires {
                  { policy.replayable } -> std::convertible_to<bool>;
                }) {
    return policy.replayable;
  } else {
    return false;
  }
}

namespace detail {

inline std::atomic<bool>& replay_allowed() {
  static std::atomic<bool> allowed = true;
  return allowed;
}

}  // namespace detail

/// Says once, for the process, whether training may replay what policies say is `replayable`; it may, unless
/// this says no. Say no where a graph's memory, as much as a step takes again, is not to be had.
inline void allow_replay(bool yes) {
  detail::replay_allowed() = yes;
}

/// Work on two tensors that is done again and again. On a CUDA device, where it `may_replay` and the program
/// is built with `REFINE_CUDA_GRAPHS` (CUDA's headers are needed, and `libtorch_cuda` when linking), it is
/// recorded as a CUDA graph once it has been done a few times, and replayed from then on for tensors of the
/// same shapes: the device need not wait until the host has said each of a thousand small things. Everywhere
/// else, and for tensors of other shapes than the first, it is called.
///
/// What it reads besides its arguments and what it changes must stay where it is in memory. As long as this
/// lives, the current stream is one of its own, since the default stream can't be recorded.
template <std::invocable<const at::Tensor&, const at::Tensor&> Work>
class Repeated {
 public:
  Repeated([[maybe_unused]] at::Device device, [[maybe_unused]] bool may_replay, Work work)
      : work_(std::move(work)) {
#if defined(REFINE_CUDA_GRAPHS)
    if (!device.is_cuda() || !may_replay || !detail::replay_allowed()) return;
    recorder_.emplace(device);
#endif
  }

  Repeated(const Repeated&) = delete;
  Repeated& operator=(const Repeated&) = delete;

  /// \throws Error when the work can't be recorded, since something in it waits for the device or memory is
  /// short
  void operator()(const at::Tensor& first, const at::Tensor& second) {
#if defined(REFINE_CUDA_GRAPHS)
    if (recorder_ && recorder_->take(first, second, work_)) return;
#endif
    work_(first, second);
  }

 private:
#if defined(REFINE_CUDA_GRAPHS)
  class Recorder {
   public:
    explicit Recorder(at::Device device) : guard_(after_the_current(device)) {}

    Recorder(const Recorder&) = delete;
    Recorder& operator=(const Recorder&) = delete;

    ~Recorder() {
      try {  // what was made on this stream is used on the other one from here on
        guard_.current_stream().synchronize();
      } catch (...) {  // the device is lost; whoever asks it next is told so
      }
    }

    /// Whether the work has been done by a replay. Tensors of other shapes than the first are left to the
    /// caller.
    bool take(const at::Tensor& first, const at::Tensor& second, Work& work) {
      if (!first_.defined()) {
        first_ = at::empty_like(first);
        second_ = at::empty_like(second);
      }
      if (!fits(first_, first) || !fits(second_, second)) return false;
      if (!graph_) {
        if (called_++ < calls_before_recording) return false;
        record(work);
      }
      first_.copy_(first);
      second_.copy_(second);
      graph_->replay();
      return true;
    }

   private:
    // LibTorch and its libraries make their workspaces, and choose algorithms, in the first calls.
    static constexpr int calls_before_recording = 3;

    void record(Work& work) {
      // What the calls before have left is of no use to the graph, which has memory of its own.
      guard_.current_stream().synchronize();
      c10::cuda::CUDACachingAllocator::emptyCache();
      graph_.emplace();
      graph_->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
      try {
        work(first_, second_);
      } catch (const std::exception& error) {
        try {  // so that the stream can be used again
          graph_->capture_end();
        } catch (...) {
        }
        throw Error(
            "refine: a training step can't be recorded as a CUDA graph ({}); a policy that waits for the "
            "device is "
            "not replayable, and where memory is short say nn::allow_replay(false)",
            one_line(error.what()));
      }
      graph_->capture_end();
    }

    static bool fits(const at::Tensor& recorded, const at::Tensor& given) {
      return recorded.sizes() == given.sizes() && recorded.scalar_type() == given.scalar_type();
    }

    /// A stream that can be recorded, once what was asked of the device's current one is done.
    static c10::Stream after_the_current(at::Device device) {
      c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
      return detail::numbered_stream(device, 0);
    }

    c10::StreamGuard guard_;
    std::optional<at::cuda::CUDAGraph> graph_;
    at::Tensor first_, second_;
    int called_ = 0;
  };

  std::optional<Recorder> recorder_;
#endif
  Work work_;
};

}  // namespace refine::nn
