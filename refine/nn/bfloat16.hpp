#pragma once

#include <c10/core/Device.h>

namespace refine::nn {

/// Whether a device is taken to multiply bfloat16 quicker than float32: an x86 processor with AVX512_BF16,
/// and any CUDA device, which is so from compute capability 8 on and not asked here. Any device computes with
/// bfloat16, others slowly.
inline bool has_bfloat16(at::Device device) {
  if (device.is_cuda()) return true;
#if defined(__x86_64__)
  return device.is_cpu() && __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

}  // namespace refine::nn
