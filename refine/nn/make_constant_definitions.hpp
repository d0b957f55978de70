#pragma once

// What make_constant.hpp declares.

#include <refine/nn/make_constant.hpp>

#include <refine/core/compiled.hpp>
#include <refine/nn/channels_last.hpp>
#include <refine/nn/foldable.hpp>
#include <refine/nn/seeded.hpp>

namespace refine::nn {

REFINE_DEFINITION void make_constant(torch::nn::Module& module) {
  module.eval();
  seeded(0, [&] { fold_all(module); });  // a new convolution draws weights of its own
  to_channels_last(module);
  for (auto& parameter : module.parameters()) parameter.set_requires_grad(false);
}

}  // namespace refine::nn
