#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace refine::nn {

/// A tensor of the host on `device`. Towards CUDA it goes through pinned memory, so that the host does not
/// wait for what the device has still to do: a training loop stays ahead of it.
inline at::Tensor to_device_async(const at::Tensor& host, at::Device device) {
  if (!device.is_cuda() || !host.is_cpu()) return host.to(device);
  return host.pin_memory().to(device, /*non_blocking=*/true);
}

/// A small tensor made on the host and wanted on whatever device a batch is on. The copy to an accelerator is
/// made once, for the device last asked for. Safe to use from several threads.
class DeviceCachedTensor {
 public:
  explicit DeviceCachedTensor(at::Tensor host) : state_(std::make_shared<State>(std::move(host))) {}

  at::Tensor on(at::Device device) const {
    if (device == state_->host.device()) return state_->host;
    const std::lock_guard lock(state_->mutex);
    if (!state_->elsewhere.defined() || state_->elsewhere.device() != device) {
      state_->elsewhere = state_->host.to(device);
    }
    return state_->elsewhere;
  }

  const at::Tensor& on_host() const { return state_->host; }

 private:
  struct State {
    explicit State(at::Tensor tensor) : host(std::move(tensor)) {}
    at::Tensor host, elsewhere;
    std::mutex mutex;
  };

  std::shared_ptr<State> state_;
};

namespace detail {

/// This thread's own stream of a number, on a CUDA device: always the same, since memory and workspaces that
/// LibTorch keeps for a stream stay with it.
inline c10::Stream numbered_stream(at::Device device, int number) {
  thread_local std::map<std::pair<c10::DeviceIndex, int>, c10::Stream> streams;
  const std::pair key{device.index(), number};
  const auto found = streams.find(key);
  if (found != streams.end()) return found->second;
  return streams.emplace(key, c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device))
      .first->second;
}

}  // namespace detail

/// Pieces of work that do not depend on one another, each too small to fill an accelerator: on CUDA they are
/// given to a few streams in turn and run side by side, elsewhere one after another.
class StreamPool {
 public:
  explicit StreamPool(at::Device device, int lanes = 8) : device_(device) {
    if (!device.is_cuda()) return;
    for (int lane = 1; lane <= lanes; ++lane) streams_.push_back(detail::numbered_stream(device, lane));
  }

  /// `work(i)` for each i from 0 to n-1. What comes before it on the current stream is done before it, and
  /// what comes after it, after it.
  template <typename Work>
  void each(std::size_t n, Work&& work) const {
    if (streams_.empty()) {
      for (std::size_t i = 0; i < n; ++i) work(i);
      return;
    }
    const c10::Stream current = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
    c10::Event begun(device_.type());
    begun.record(current);
    for (std::size_t lane = 0; lane < streams_.size() && lane < n; ++lane) {
      begun.block(streams_[lane]);
      const c10::StreamGuard guard(streams_[lane]);
      for (std::size_t i = lane; i < n; i += streams_.size()) work(i);
      c10::Event done(device_.type());
      done.record(streams_[lane]);
      done.block(current);
    }
  }

 private:
  at::Device device_;
  std::vector<c10::Stream> streams_;
};

}  // namespace refine::nn
