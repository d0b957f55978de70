#pragma once

#include <torch/nn/module.h>

namespace refine::nn {

/// Turns a trained module, in place, into its fast and constant form: evaluation mode, BatchNorm folded into
/// the convolutions, channels-last, no gradient for parameters. It can no longer be trained or cloned.
void make_constant(torch::nn::Module& module);

}  // namespace refine::nn

#if !defined(REFINE_COMPILED)
#include <refine/nn/make_constant_definitions.hpp>
#endif
