#pragma once

#include <ATen/autocast_mode.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

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

/// LibTorch's autocast to bfloat16 on a device's kind, for as long as this lives, in this thread:
/// convolutions and matrix products of float32 tensors are made in bfloat16, which keeps float32's range and
/// 8 of its 24 bits; parameters and their gradients stay as they are. Where `on` is false it changes nothing.
/// Losses belong outside, and so does `backward`, which repeats each step's own arithmetic.
class Autocast {
 public:
  Autocast(at::Device device, bool on) : kind_(device.type()), on_(on) {
    if (!on_) return;
    was_enabled_ = at::autocast::is_autocast_enabled(kind_);
    was_type_ = at::autocast::get_autocast_dtype(kind_);
    at::autocast::set_autocast_dtype(kind_, at::kBFloat16);
    at::autocast::set_autocast_enabled(kind_, true);
    at::autocast::increment_nesting();
  }

  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

  ~Autocast() {
    if (!on_) return;
    // The outermost forgets the weights that it has cast: the optimiser is about to change them.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(kind_, was_enabled_);
    at::autocast::set_autocast_dtype(kind_, was_type_);
  }

 private:
  at::DeviceType kind_;
  bool on_, was_enabled_ = false;
  at::ScalarType was_type_ = at::kFloat;
};

}  // namespace refine::nn
