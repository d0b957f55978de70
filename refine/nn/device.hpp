#pragma once

#include <c10/core/Device.h>
#include <torch/nn/module.h>

#include <cstddef>
#include <optional>
#include <string>

#include <refine/core/error.hpp>

namespace refine {

/// Where `train_classifier` and `fit` run (and leave their networks, for evaluation): what `use_device`
/// chose, otherwise CUDA where there is one, else the CPU.
at::Device default_device();

/// Says once, for the process, where `train_classifier` and `fit` run.
/// \param name `auto`, `cpu`, `cuda` or `cuda:1`
/// \throws Error when the name is no device, or this machine has no such one
void use_device(const std::string& name);

/// Says once how many host threads tensor arithmetic uses; 0 means what OMP_NUM_THREADS says, or one a
/// hardware thread.
void use_threads(int threads);

}  // namespace refine

namespace refine::nn {

/// Returns the device of a module's first parameter or, where it has none (a frozen or scripted network may
/// have buffers alone), of its first buffer; nothing where it has no tensors.
std::optional<at::Device> device_of(const torch::nn::Module& module);

/// Moves a module. One whose tensors are all there already is only read, so that other threads may use it.
void move_to(torch::nn::Module& module, at::Device device);

/// Returns how many bytes of a device's memory are free for large tensors. The host counts as boundless: what
/// is there need not be copied. Where LibTorch does not tell (before 2.9, or on a device that it does not ask),
/// 16 GiB are assumed.
std::size_t free_memory(at::Device device);

}  // namespace refine::nn

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace refine {

/// Tells the C library to keep freed memory for the next batch instead of giving it back to the system, which
/// zeroes and maps it anew every time. It holds for the whole process and is the program's choice, so no
/// function here calls it. A training step on two cores gains about a tenth, evaluation a third.
/// \return false where the C library does not do so: it is not glibc, or refuses such large values
inline bool keep_freed_memory() {
#if defined(__GLIBC__)
  return mallopt(M_MMAP_THRESHOLD, 1 << 30) == 1 && mallopt(M_TRIM_THRESHOLD, 1 << 30) == 1;
#else
  return false;
#endif
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/nn/impl/device.ipp>
#endif
