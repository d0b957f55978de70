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

/// Copies a tensor of the host to a device.
///
/// A CUDA device gets it through pinned memory: the host does not wait for pending work of the
/// device, so that a training loop stays ahead of it.
inline at::Tensor to_device_async(const at::Tensor& host, at::Device device) {
  if (!device.is_cuda() || !host.is_cpu()) return host.to(device);
  return host.pin_memory().to(device, /*non_blocking=*/true);
}

/// A small tensor of the host that is needed on the device of each batch.
///
/// The copy for the device asked for last is cached. Thread-safe. Copies of the object share the
/// cache.
class DeviceCachedTensor {
 public:
  /// \param host a tensor on the host
  explicit DeviceCachedTensor(at::Tensor host) : state_(std::make_shared<State>(std::move(host))) {}

  /// Returns the tensor on a device.
  at::Tensor on(at::Device device) const {
    if (device == state_->host.device()) return state_->host;
    const std::lock_guard lock(state_->mutex);
    if (!state_->elsewhere.defined() || state_->elsewhere.device() != device) {
      state_->elsewhere = state_->host.to(device);
    }
    return state_->elsewhere;
  }

  /// Returns the tensor on the host.
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

/// Returns a stream of a CUDA device by number, for this thread. It is always the same one:
/// LibTorch keeps memory and workspaces for each stream.
inline c10::Stream numbered_stream(at::Device device, int number) {
  thread_local std::map<std::pair<c10::DeviceIndex, int>, c10::Stream> streams;
  const std::pair key{device.index(), number};
  const auto found = streams.find(key);
  if (found != streams.end()) return found->second;
  return streams.emplace(key, c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device))
      .first->second;
}

}  // namespace detail

/// Runs independent pieces of work that are each too small to fill an accelerator.
///
/// On CUDA they are distributed over a few streams and run side by side; elsewhere they run one
/// after another.
class StreamPool {
 public:
  /// \param device where the work runs
  /// \param streams the number of streams on CUDA
  explicit StreamPool(at::Device device, int streams = 8) : device_(device) {
    if (!device.is_cuda()) return;
    for (int number = 1; number <= streams; ++number) {
      streams_.push_back(detail::numbered_stream(device, number));
    }
  }

  /// Calls `work(i)` for each i from 0 to n−1. Earlier work of the current stream is done before,
  /// later work after.
  /// \param n the number of pieces
  /// \param work a function of the piece's number
  template <typename Work>
  void each(std::size_t n, Work&& work) const {
    if (streams_.empty()) {
      for (std::size_t i = 0; i < n; ++i) work(i);
      return;
    }
    const c10::Stream current = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
    c10::Event begun(device_.type());
    begun.record(current);
    for (std::size_t number = 0; number < streams_.size() && number < n; ++number) {
      begun.block(streams_[number]);
      const c10::StreamGuard guard(streams_[number]);
      for (std::size_t i = number; i < n; i += streams_.size()) work(i);
      c10::Event done(device_.type());
      done.record(streams_[number]);
      done.block(current);
    }
  }

 private:
  at::Device device_;
  std::vector<c10::Stream> streams_;
};

}  // namespace refine::nn
