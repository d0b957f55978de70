#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>

namespace refine::backbones::detail {

/// Draws the weights of all convolutions in `module` from N(0, 2/(k·k·out)), so that gradients keep their
/// size on the way back through ReLUs (He et al., 2015, `he2015rectifiers`), and sets their biases to 0.
void draw_by_fan_out(torch::nn::Module& module);

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED)
#include <refine/backbones/fan_out_definitions.hpp>
#endif
