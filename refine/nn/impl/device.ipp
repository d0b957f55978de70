#pragma once

#include <refine/nn/device.hpp>

#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <torch/cuda.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <limits>
#include <mutex>
#include <new>
#include <string_view>
#include <thread>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/text.hpp>

namespace refine::detail {

/// The default device of the process, guarded for use from several threads.
struct ChosenDevice {
  std::mutex mutex;
  std::optional<at::Device> device;
};

REFINE_INLINE ChosenDevice& chosen_device() {
  static ChosenDevice chosen;
  return chosen;
}

REFINE_INLINE void choose_device(std::optional<at::Device> device) {
  const std::lock_guard lock(chosen_device().mutex);
  chosen_device().device = device;
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE at::Device default_device() {
  auto& [mutex, device] = detail::chosen_device();
  const std::lock_guard lock(mutex);
  if (!device) device = torch::cuda::is_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  return *device;
}

REFINE_INLINE void use_device(const std::string& name) {
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
    throw Error("device: unknown name '{}' (expected auto, cpu, cuda or cuda:N)", name);
  }
  if (name == "cpu") {
    detail::choose_device(at::Device(at::kCPU));
    return;
  }
  const auto present = static_cast<int>(torch::cuda::device_count());
  if (std::stoi(index) >= present) {
    throw Error("device: '{}' is not available, this machine has {} CUDA device(s); use cpu or auto", name,
                present);
  }
  detail::choose_device(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(std::stoi(index))));
}

REFINE_INLINE void use_threads(int threads) {
  constexpr int max_threads = 4096;  // more crash OpenMP
  if (threads < 0 || threads > max_threads)
    throw Error("threads: must be 0 to {}, got {}; 0 uses all", max_threads, threads);
  if (threads == 0) {
    const char* variable = std::getenv("OMP_NUM_THREADS");
    threads =
        variable != nullptr ? std::atoi(variable) : static_cast<int>(std::thread::hardware_concurrency());
  }
  at::set_num_threads(threads > 0 ? threads : 1);
}

}  // namespace refine

namespace refine::nn {

REFINE_INLINE std::optional<at::Device> device_of(const torch::nn::Module& module) {
  for (const at::Tensor& parameter : module.parameters()) {
    if (parameter.defined()) return parameter.device();
  }
  for (const at::Tensor& buffer : module.buffers()) {
    if (buffer.defined()) return buffer.device();
  }
  return std::nullopt;
}

REFINE_INLINE void move_to(torch::nn::Module& module, at::Device device) {
  const auto is_elsewhere = [&](const at::Tensor& tensor) {
    return tensor.defined() && tensor.device() != device;
  };
  if (std::ranges::any_of(module.parameters(), is_elsewhere) ||
      std::ranges::any_of(module.buffers(), is_elsewhere)) {
    module.to(device);
  }
}

}  // namespace refine::nn

namespace refine::nn::detail {

/// Returns the free memory that LibTorch's allocator reports, or `otherwise` if it reports none.
template <typename Allocator>
std::size_t reported_free_memory(Allocator& allocator, c10::DeviceIndex index, std::size_t otherwise) {
  if constexpr (requires { allocator.getMemoryInfo(index).first; }) {
    try {
      return allocator.getMemoryInfo(index).first;
    } catch (const std::exception&) {  // not reported for this device
    }
  }
  return otherwise;
}

}  // namespace refine::nn::detail

namespace refine::nn {

REFINE_INLINE std::size_t free_memory(at::Device device) {
  if (device.is_cpu()) return std::numeric_limits<std::size_t>::max();
  constexpr std::size_t assumed = std::size_t{16} << 30;
  auto* const allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  const c10::DeviceIndex index = device.has_index() ? device.index() : c10::DeviceIndex{0};
  return allocator == nullptr ? assumed : detail::reported_free_memory(*allocator, index, assumed);
}

REFINE_INLINE bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) || dynamic_cast<const std::bad_alloc*>(&error))
    return true;
  const auto mentions = [](std::string_view text, std::initializer_list<std::string_view> phrases) {
    return std::ranges::any_of(
        phrases, [&](std::string_view phrase) { return text.find(phrase) != std::string_view::npos; });
  };
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) {
    return mentions(torch_error->what_without_backtrace(),
                    {"DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory",
                     "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"});
  }
  // oneDNN's exceptions have a status, but LibTorch hides their type. What a layer cannot do is refused before, when
  // its primitive is described; afterwards only memory is missing.
  const std::string_view text = error.what();
  return text == "could not create a primitive" || text == "could not execute a primitive" ||
         text == "could not create a memory object";
}

REFINE_INLINE std::string describe_error(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  return text::one_line(torch_error ? torch_error->what_without_backtrace() : error.what());
}

}  // namespace refine::nn
