#pragma once

#include <c10/core/Device.h>

namespace refine::nn {

/// Whether a device has instructions for bfloat16, so that it multiplies them quicker than float32: x86
/// processors with AVX512_BF16, and CUDA devices (of compute capability 8 or more; older ones aren't told
/// apart). Any device computes with bfloat16, the others slowly.
inline bool has_bfloat16(at::Device device) {
  if (device.is_cuda()) return true;
#if defined(__x86_64__)
  return device.is_cpu() && __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

}  // namespace refine::nn
