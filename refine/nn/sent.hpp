#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace refine::nn {

/// A tensor of the host on `device`. Towards CUDA it goes through pinned memory, so that the host does not
/// wait for what the device has still to do: a training loop stays ahead of it.
inline at::Tensor sent(const at::Tensor& host, at::Device device) {
  if (!device.is_cuda() || !host.is_cpu()) return host.to(device);
  return host.pin_memory().to(device, /*non_blocking=*/true);
}

}  // namespace refine::nn
