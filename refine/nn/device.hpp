#pragma once

#include <ATen/Parallel.h>
#include <c10/core/Device.h>
#include <torch/cuda.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <thread>

#include <refine/core/error.hpp>

namespace refine {

namespace detail {

inline std::optional<at::Device>& chosen_device() {
  static std::optional<at::Device> device;
  return device;
}

}  // namespace detail

/// Where `train_classifier` and `fit` run (and leave their networks, for evaluation): what `use_device`
/// chose, otherwise CUDA where there is one, else the CPU.
inline at::Device default_device() {
  auto& device = detail::chosen_device();
  if (!device) device = torch::cuda::is_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  return *device;
}

/// Says once, for the process, where `train_classifier` and `fit` run.
/// \param name `auto`, `cpu`, `cuda` or `cuda:1`
/// \throws Error when the name is no device, or this machine has no such one
inline void use_device(const std::string& name) {
  if (name == "auto") {
    detail::chosen_device().reset();
    return;
  }
  const std::size_t colon = name.find(':');
  const std::string kind = name.substr(0, colon);
  const std::string index = colon == std::string::npos ? "0" : name.substr(colon + 1);
  const bool numbered =
      !index.empty() && index.size() <= 3 && index.find_first_not_of("0123456789") == std::string::npos;
  if ((kind != "cuda" && name != "cpu") || !numbered) {
    throw Error("refine: no device is called '{}'; say auto, cpu, cuda or cuda:N", name);
  }
  if (name == "cpu") {
    detail::chosen_device() = at::Device(at::kCPU);
    return;
  }
  const auto present = static_cast<int>(torch::cuda::device_count());
  if (std::stoi(index) >= present) {
    throw Error("refine: device '{}' was asked for, this machine shows {} CUDA device(s); say cpu or auto",
                name, present);
  }
  detail::chosen_device() = at::Device(at::kCUDA, static_cast<at::DeviceIndex>(std::stoi(index)));
}

/// Says once how many host threads tensor arithmetic uses; 0 means what OMP_NUM_THREADS says, or one a
/// hardware thread.
inline void use_threads(int threads) {
  if (threads < 0)
    throw Error("refine: {} threads were asked for; say 0 (as many as there are) or more", threads);
  if (threads == 0) {
    const char* said = std::getenv("OMP_NUM_THREADS");
    threads = said != nullptr ? std::atoi(said) : static_cast<int>(std::thread::hardware_concurrency());
  }
  at::set_num_threads(threads > 0 ? threads : 1);
}

}  // namespace refine
