#pragma once

// What device.hpp declares.

#include <refine/nn/device.hpp>

#include <ATen/Parallel.h>
#include <torch/cuda.h>

#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <refine/core/compiled.hpp>

namespace refine::detail {

/// What the process has chosen; several threads may ask.
struct ChosenDevice {
  std::mutex mutex;
  std::optional<at::Device> device;
};

REFINE_DEFINITION ChosenDevice& chosen_device() {
  static ChosenDevice chosen;
  return chosen;
}

REFINE_DEFINITION void choose_device(std::optional<at::Device> device) {
  const std::lock_guard lock(chosen_device().mutex);
  chosen_device().device = device;
}

}  // namespace refine::detail

namespace refine {

REFINE_DEFINITION at::Device default_device() {
  auto& [mutex, device] = detail::chosen_device();
  const std::lock_guard lock(mutex);
  if (!device) device = torch::cuda::is_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  return *device;
}

REFINE_DEFINITION void use_device(const std::string& name) {
  if (name == "auto") {
    detail::choose_device(std::nullopt);
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
    detail::choose_device(at::Device(at::kCPU));
    return;
  }
  const auto present = static_cast<int>(torch::cuda::device_count());
  if (std::stoi(index) >= present) {
    throw Error("refine: device '{}' was asked for, this machine shows {} CUDA device(s); say cpu or auto",
                name, present);
  }
  detail::choose_device(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(std::stoi(index))));
}

REFINE_DEFINITION void use_threads(int threads) {
  if (threads < 0)
    throw Error("refine: {} threads were asked for; say 0 (as many as there are) or more", threads);
  if (threads == 0) {
    const char* said = std::getenv("OMP_NUM_THREADS");
    threads = said != nullptr ? std::atoi(said) : static_cast<int>(std::thread::hardware_concurrency());
  }
  at::set_num_threads(threads > 0 ? threads : 1);
}

}  // namespace refine
