#pragma once

#include <c10/core/Device.h>

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

#if !defined(REFINE_COMPILED)
#include <refine/nn/device_definitions.hpp>
#endif
