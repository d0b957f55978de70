#pragma once

#include <refine/nn/cuda_graph.hpp>

#include <refine/core/config.hpp>

#if defined(REFINE_CUDA_GRAPHS)
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <exception>
#include <functional>
#include <optional>

#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/transfer.hpp>
#endif

namespace refine::nn::detail {

#if defined(REFINE_CUDA_GRAPHS)
class GraphRecorder final : public Recorder {
 public:
  explicit GraphRecorder(at::Device device) : guard_(after_the_current(device)) {}

  GraphRecorder(const GraphRecorder&) = delete;
  GraphRecorder& operator=(const GraphRecorder&) = delete;

  ~GraphRecorder() override {
    try {  // results of this stream are used on the other one from here on
      guard_.current_stream().synchronize();
    } catch (...) {  // the device is lost; its next use reports it
    }
  }

  bool take(const at::Tensor& first, const at::Tensor& second,
            const std::function<void(const at::Tensor&, const at::Tensor&)>& work) override {
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
  // LibTorch and its libraries allocate workspaces and choose algorithms in the first calls.
  static constexpr int calls_before_recording = 3;

  void record(const std::function<void(const at::Tensor&, const at::Tensor&)>& work) {
    // Cached memory of earlier calls is of no use to the graph, which has its own pool.
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
      graph_.reset();
      if (is_out_of_memory(error)) throw;
      throw Error(
          "CUDA graph: the training step cannot be recorded ({}); a policy that waits for the device must not be "
          "cuda_graph_safe, and if memory is short call nn::enable_cuda_graphs(false)",
          text::one_line(error.what()));
    }
    graph_->capture_end();
  }

  static bool fits(const at::Tensor& recorded, const at::Tensor& given) {
    return recorded.sizes() == given.sizes() && recorded.scalar_type() == given.scalar_type();
  }

  /// Returns a stream that can be recorded, after waiting for the work of the current one.
  static c10::Stream after_the_current(at::Device device) {
    c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
    return detail::numbered_stream(device, 0);
  }

  c10::StreamGuard guard_;
  std::optional<at::cuda::CUDAGraph> graph_;
  at::Tensor first_, second_;
  int called_ = 0;
};

REFINE_INLINE std::unique_ptr<Recorder> make_recorder(at::Device device) {
  if (!device.is_cuda()) return nullptr;
  return std::make_unique<GraphRecorder>(device);
}
#else
REFINE_INLINE std::unique_ptr<Recorder> make_recorder(at::Device) {
  return nullptr;
}
#endif

}  // namespace refine::nn::detail
