#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <concepts>
#include <optional>
#include <utility>

#if defined(REFINE_CUDA_GRAPHS)
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
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

/// Work on two tensors that is done again and again. On a CUDA device, where it `may_replay` and the program
/// is built with `REFINE_CUDA_GRAPHS` (CUDA's headers are needed, and `libtorch_cuda` when linking), it is
/// recorded as a CUDA graph once it has been done a few times, and replayed from then on for tensors of the
/// same shapes: the device need not wait until the host has said each of a thousand small things. Everywhere
/// else it is called.
///
/// What it reads besides its arguments and what it changes must stay where it is in memory. As long as this
/// lives, the current stream is one of its own, since the default stream can't be recorded.
template <std::invocable<const at::Tensor&, const at::Tensor&> Work>
class Repeated {
 public:
  Repeated([[maybe_unused]] at::Device device, [[maybe_unused]] bool may_replay, Work work)
      : work_(std::move(work)) {
#if defined(REFINE_CUDA_GRAPHS)
    if (!device.is_cuda() || !may_replay) return;
    recorder_.emplace(device);
#endif
  }

  Repeated(const Repeated&) = delete;
  Repeated& operator=(const Repeated&) = delete;

  /// \throws c10::Error when the work can't be recorded: something in it waits for the device, and is not
  /// replayable
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
    explicit Recorder(at::Device device) : guard_(stream_of_its_own(device)) {
      guard_.original_stream().synchronize();
    }

    Recorder(const Recorder&) = delete;
    Recorder& operator=(const Recorder&) = delete;

    ~Recorder() {
      try {  // what was made on this stream is used on the other one from here on
        guard_.current_stream().synchronize();
      } catch (...) {  // the device is lost; whoever asks it next is told so
      }
    }

    /// Whether the work has been done by a replay.
    bool take(const at::Tensor& first, const at::Tensor& second, Work& work) {
      if (!graph_) {
        if (called_++ < calls_before_recording) return false;
        first_ = at::empty_like(first);
        second_ = at::empty_like(second);
        graph_.emplace();
        graph_->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
        work(first_, second_);
        graph_->capture_end();
      }
      if (!fits(first_, first) || !fits(second_, second)) return false;
      first_.copy_(first);
      second_.copy_(second);
      graph_->replay();
      return true;
    }

   private:
    // LibTorch and its libraries make their workspaces, and choose algorithms, in the first calls.
    static constexpr int calls_before_recording = 3;

    static bool fits(const at::Tensor& recorded, const at::Tensor& given) {
      return recorded.sizes() == given.sizes() && recorded.scalar_type() == given.scalar_type();
    }

    static c10::Stream stream_of_its_own(at::Device device) {
      return c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
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
