#pragma once

// What free_memory.hpp declares.

#include <refine/nn/free_memory.hpp>

#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <cstddef>
#include <exception>
#include <limits>
#include <utility>

#include <refine/core/compiled.hpp>

namespace refine::nn::detail {

/// Free and total memory as LibTorch's own allocator reports them, where this LibTorch has such a report.
template <typename Allocator>
std::size_t reported_free_memory(Allocator& allocator, c10::DeviceIndex index, std::size_t otherwise) {
  if constexpr (requires { allocator.getMemoryInfo(index).first; }) {
    try {
      return allocator.getMemoryInfo(index).first;
    } catch (const std::exception&) {  // this device does not report it
    }
  }
  return otherwise;
}

}  // namespace refine::nn::detail

namespace refine::nn {

REFINE_DEFINITION std::size_t free_memory(at::Device device) {
  if (device.is_cpu()) return std::numeric_limits<std::size_t>::max();
  constexpr std::size_t assumed = std::size_t{16} << 30;
  auto* const allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  const c10::DeviceIndex index = device.has_index() ? device.index() : c10::DeviceIndex{0};
  return allocator == nullptr ? assumed : detail::reported_free_memory(*allocator, index, assumed);
}

}  // namespace refine::nn
