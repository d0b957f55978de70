#pragma once

// What device.hpp declares.

#include <refine/nn/device.hpp>

#include <ATen/Parallel.h>
#include <torch/cuda.h>

#include <cstddef>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>

#include <refine/core/compiled.hpp>

namespace refine::detail {

REFINE_DEFINITION std::optional<at::Device>& chosen_device() {
  static std::optional<at::Device> device;
  return device;
}

}  // namespace refine::detail

namespace refine {

REFINE_DEFINITION at::Device default_device() {
  auto& device = detail::chosen_device();
  if (!device) device = torch::cuda::is_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  return *device;
}

REFINE_DEFINITION void use_device(const std::string& name) {
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
