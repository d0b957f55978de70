#pragma once

#include <c10/core/Device.h>

#include <refine/nn/bfloat16.hpp>
#include <refine/training/optimization.hpp>

namespace refine {

/// Whether a precision comes to bfloat16 on a device.
inline bool uses_bfloat16(Precision precision, at::Device device) {
  return precision == Precision::bfloat16 || (precision == Precision::automatic && nn::has_bfloat16(device));
}

}  // namespace refine
