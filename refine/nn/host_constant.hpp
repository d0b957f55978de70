#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <mutex>
#include <utility>

namespace refine::nn {

/// A small tensor made on the host and wanted on whatever device a batch is on. The copy to an accelerator is
/// made once, for the device last asked for. Safe to use from several threads.
class HostConstant {
 public:
  explicit HostConstant(at::Tensor host) : state_(std::make_shared<State>(std::move(host))) {}

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

}  // namespace refine::nn
