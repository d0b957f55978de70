#pragma once

#include <c10/core/Device.h>

#include <cstddef>

namespace refine::nn {

/// Returns how many bytes of a device's memory are free for large tensors. The host counts as boundless: what
/// is there need not be copied. Where LibTorch does not tell (before 2.9, or on a device that it does not ask),
/// 16 GiB are assumed.
std::size_t free_memory(at::Device device);

}  // namespace refine::nn

#if !defined(REFINE_COMPILED)
#include <refine/nn/free_memory_definitions.hpp>
#endif
