#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>

/// \file
/// What a function of images costs beside time.

namespace refine::detail {

/// Returns the largest number of bytes that the tensors which `work` allocates take at a time on a
/// device, as LibTorch's allocators report them for this thread.
std::int64_t peak_tensor_memory(at::Device device, const std::function<void()>& work);

/// Returns the multiply-adds of the convolutions, matrix products and attentions that `work` runs
/// on this thread, from the shapes of their tensors. An operator that calls another one of them is
/// counted once. Winograd's convolutions count as what they compute; they are off meanwhile, in the
/// whole process.
std::int64_t multiply_adds_of(const std::function<void()>& work);

}  // namespace refine::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/evaluation/impl/inference_meters.ipp>
#endif
