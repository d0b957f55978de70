#pragma once

#include <c10/core/Device.h>
#include <torch/nn/module.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <cstddef>
#include <exception>
#include <optional>
#include <string>

#include <refine/core/error.hpp>

namespace refine {

/// Returns the device that `train_classifier` and `fit` use, and on which they leave their
/// networks: the one set by `use_device`, else CUDA if available, else the CPU.
at::Device default_device();

/// Sets the default device of the process.
/// \param name `auto`, `cpu`, `cuda` or `cuda:1`
/// \throws Error if the name is not a device, or this machine does not have it
void use_device(const std::string& name);

/// Sets the number of host threads for tensor arithmetic.
/// \param threads 0 to 4096; 0: as `OMP_NUM_THREADS` specifies, or one for each hardware thread
void use_threads(int threads);

}  // namespace refine

namespace refine::nn {

/// Returns the device of a module's first parameter or, without parameters, of its first buffer, as
/// frozen and scripted networks have only buffers.
/// \return nothing for a module without tensors
std::optional<at::Device> device_of(const torch::nn::Module& module);

/// Moves a module to a device. A module that is there already is only read, so that other threads
/// may use it.
void move_to(torch::nn::Module& module, at::Device device);

/// Returns the free memory of a device in bytes.
///
/// The host counts as unlimited, since its tensors need not be copied. If LibTorch does not report
/// it (before 2.9, or for some devices), the result is 16 GiB.
std::size_t free_memory(at::Device device);

/// True if an exception reports that memory, of a device or of the host, could not be allocated.
/// LibTorch throws a `c10::OutOfMemoryError` for devices. Its other errors are recognised by their text.
/// \param error as it was caught
bool is_out_of_memory(const std::exception& error);

/// Returns the essential line of what an exception reports; of LibTorch's, without the backtrace.
/// \param error as it was caught
std::string describe_error(const std::exception& error);

}  // namespace refine::nn

namespace refine {

/// Makes the C library keep freed memory for the next batch instead of returning it to the system,
/// which would zero and map it again each time.
///
/// It affects the whole process, so only programs call it. On two cores a training step becomes
/// about a tenth faster, evaluation a third.
/// \return false if the C library is not glibc or refuses the setting
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
