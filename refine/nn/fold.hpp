#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <string>

#include <refine/core/error.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::nn {

/// A module that can fold its BatchNorms into the convolutions before them. `fold_all` finds such
/// modules.
struct Foldable {
  virtual ~Foldable() = default;

  /// Folds all BatchNorms. In evaluation mode the module then computes the same in fewer steps. It
  /// can no longer be trained or cloned.
  virtual void fold() = 0;

  /// True if `fold` covers the modules below, which `fold_all` then leaves alone.
  virtual bool folds_children() const { return false; }
};

/// Returns the convolution that computes what `convolution` and `norm` compute in evaluation mode:
/// w' = w·γ/√(σ²+ε), b' = (b−μ)·γ/√(σ²+ε) + β. Without affine parameters, γ is 1 and β is 0.
/// \throws Error if `norm` has no running statistics: it computes those of each batch
inline torch::nn::Conv2d folded(const torch::nn::Conv2d& convolution, const torch::nn::BatchNorm2d& norm) {
  if (!norm->running_mean.defined()) {
    throw Error(
        "cannot fold a BatchNorm without running statistics: it normalises by each batch; construct it with "
        ".track_running_stats(true)");
  }
  c10::NoGradGuard no_grad;
  const auto& o = convolution->options;
  torch::nn::Conv2d merged(torch::nn::Conv2dOptions(o.in_channels(), o.out_channels(), o.kernel_size())
                               .stride(o.stride())
                               .padding(o.padding())
                               .dilation(o.dilation())
                               .groups(o.groups())
                               .padding_mode(o.padding_mode())
                               .bias(true));
  merged->to(convolution->weight.device(), convolution->weight.scalar_type());
  // In double: folding costs no accuracy.
  const at::Tensor deviation = (norm->running_var.to(at::kDouble) + norm->options.eps()).sqrt();
  const at::Tensor scale =
      norm->weight.defined() ? norm->weight.to(at::kDouble) / deviation : deviation.reciprocal();
  at::Tensor shift = -norm->running_mean.to(at::kDouble);
  if (convolution->bias.defined()) shift = shift + convolution->bias.to(at::kDouble);
  merged->weight.copy_(convolution->weight.to(at::kDouble) * scale.view({-1, 1, 1, 1}));
  shift = shift * scale;
  merged->bias.copy_(norm->bias.defined() ? shift + norm->bias.to(at::kDouble) : shift);
  return merged;
}

/// Replaces the children `convolution` and `norm` of `owner` by the folded convolution, and empties
/// `norm`.
/// \param owner the module that has registered both
/// \param convolution_name the name it was registered under
/// \param convolution becomes the folded one
/// \param norm_name the name it was registered under
/// \param norm becomes empty
inline void fold_conv_bn(torch::nn::Module& owner, const std::string& convolution_name,
                         torch::nn::Conv2d& convolution, const std::string& norm_name,
                         torch::nn::BatchNorm2d& norm) {
  convolution = owner.replace_module(convolution_name, folded(convolution, norm));
  owner.unregister_module(norm_name);
  norm = nullptr;
}

/// Folds every `Foldable` in a tree of modules, `root` included.
inline void fold_all(torch::nn::Module& root) {
  auto* foldable = dynamic_cast<Foldable*>(&root);
  if (!foldable || !foldable->folds_children()) {
    for (const auto& child : root.children()) fold_all(*child);
  }
  if (foldable) foldable->fold();
}

/// Turns a trained module, in place, into its fast and constant form: evaluation mode, BatchNorm
/// folded into the convolutions, channels-last, no gradient for parameters. It can no longer be
/// trained or cloned.
inline void prepare_for_inference(torch::nn::Module& module) {
  module.eval();
  with_torch_seed(0, [&] { fold_all(module); });  // a new convolution draws weights first
  to_channels_last(module);
  for (auto& parameter : module.parameters()) parameter.set_requires_grad(false);
}

}  // namespace refine::nn
