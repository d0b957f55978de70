#pragma once

#include <torch/nn/module.h>

#include <refine/nn/channels_last.hpp>
#include <refine/nn/foldable.hpp>
#include <refine/nn/seeded.hpp>

namespace refine::nn {

/// Turns a trained module, in place, into its fast and constant form: evaluation mode, BatchNorm folded into
/// the convolutions, channels-last, no gradient for parameters. It can no longer be trained or cloned.
inline void make_constant(torch::nn::Module& module) {
  module.eval();
  seeded(0, [&] { fold_all(module); });  // a new convolution draws weights of its own
  to_channels_last(module);
  for (auto& parameter : module.parameters()) parameter.set_requires_grad(false);
}

}  // namespace refine::nn
