#pragma once

#include <ATen/autocast_mode.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace refine::nn {

/// True if a device multiplies bfloat16 faster than float32: an x86 processor with AVX512_BF16, or
/// a CUDA device.
///
/// CUDA devices do so from compute capability 8 on, which is not checked. Other devices compute
/// with bfloat16, too, but slowly.
inline bool has_bfloat16(at::Device device) {
  if (device.is_cuda()) return true;
#if defined(__x86_64__)
  return device.is_cpu() && __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

/// Enables LibTorch's autocast to bfloat16 for a kind of device, in this thread, until it is
/// destroyed.
///
/// Convolutions and matrix products of float32 tensors are computed in bfloat16, which keeps the
/// range of float32 and 8 of its 24 significant bits. Parameters and their gradients remain
/// float32. Compute losses outside of it, and call `backward` outside: each step's gradient uses
/// the arithmetic of that step.
class Autocast {
 public:
  /// \param device whose kind is affected
  /// \param on false: changes nothing
  Autocast(at::Device device, bool on) : kind_(device.type()), on_(on) {
    if (!on_) return;
    was_enabled_ = at::autocast::is_autocast_enabled(kind_);
    was_type_ = at::autocast::get_autocast_dtype(kind_);
    clear_other_casts();
    at::autocast::set_autocast_dtype(kind_, at::kBFloat16);
    at::autocast::set_autocast_enabled(kind_, true);
    at::autocast::increment_nesting();
  }

  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

  ~Autocast() {
    if (!on_) return;
    // Drops the cached casts of weights, which the optimiser is about to change.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    clear_other_casts();
    at::autocast::set_autocast_enabled(kind_, was_enabled_);
    at::autocast::set_autocast_dtype(kind_, was_type_);
  }

 private:
  /// Drops cached casts if those of the outer autocast have another type: LibTorch does not look at it.
  void clear_other_casts() const {
    if (was_type_ != at::kBFloat16) at::autocast::clear_cache();
  }

  at::DeviceType kind_;
  bool on_, was_enabled_ = false;
  at::ScalarType was_type_ = at::kFloat;
};

/// Disables the cache in which LibTorch's autocast keeps the casts of weights, in this thread, until it
/// is destroyed. An autocast that the caller has set up would otherwise compute with the weights before
/// an optimiser's step.
class ScopedNoAutocastCache {
 public:
  ScopedNoAutocastCache() {
    at::autocast::clear_cache();
    at::autocast::set_autocast_cache_enabled(false);
  }

  ScopedNoAutocastCache(const ScopedNoAutocastCache&) = delete;
  ScopedNoAutocastCache& operator=(const ScopedNoAutocastCache&) = delete;

  ~ScopedNoAutocastCache() { at::autocast::set_autocast_cache_enabled(was_enabled_); }

 private:
  bool was_enabled_ = at::autocast::is_autocast_cache_enabled();
};

}  // namespace refine::nn
