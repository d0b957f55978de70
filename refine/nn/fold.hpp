#pragma once

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <string>

#include <refine/nn/conv.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::nn {

/// A module that can merge its BatchNorms into the convolutions before them. `fold_all` finds these.
struct Foldable {
  virtual ~Foldable() = default;

  /// After this the module computes in evaluation mode what it did before, with fewer steps; it can no longer
  /// be trained or cloned.
  virtual void fold() = 0;
};

/// The convolution that does what `convolution` and then, in evaluation mode, `norm` do:
/// w' = w·γ/√(σ²+ε), b' = (b−μ)·γ/√(σ²+ε) + β.
torch::nn::Conv2d folded(const torch::nn::Conv2d& convolution, const torch::nn::BatchNorm2d& norm);

/// Replaces `owner`'s children `convolution` and `norm` by the folded convolution, and empties `norm`.
void fold_conv_bn(torch::nn::Module& owner, const std::string& convolution_name,
                  torch::nn::Conv2d& convolution, const std::string& norm_name, torch::nn::BatchNorm2d& norm);

/// `norm(x)`, or `x` where the norm has been folded away.
inline at::Tensor apply_batch_norm(torch::nn::BatchNorm2d& norm, const at::Tensor& x) {
  return norm.is_empty() ? x : norm->forward(x);
}

/// Folds every `Foldable` below (and at) `root`.
void fold_all(torch::nn::Module& root);

/// Turns a trained module, in place, into its fast and constant form: evaluation mode, BatchNorm folded into
/// the convolutions, channels-last, no gradient for parameters. It can no longer be trained or cloned.
void prepare_for_inference(torch::nn::Module& module);

inline torch::nn::Conv2d folded(const torch::nn::Conv2d& convolution, const torch::nn::BatchNorm2d& norm) {
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
  // In double, so that folding itself costs no accuracy.
  const at::Tensor scale =
      norm->weight.to(at::kDouble) / (norm->running_var.to(at::kDouble) + norm->options.eps()).sqrt();
  at::Tensor shift = -norm->running_mean.to(at::kDouble);
  if (convolution->bias.defined()) shift = shift + convolution->bias.to(at::kDouble);
  merged->weight.copy_(convolution->weight.to(at::kDouble) * scale.view({-1, 1, 1, 1}));
  merged->bias.copy_(shift * scale + norm->bias.to(at::kDouble));
  return merged;
}

inline void fold_conv_bn(torch::nn::Module& owner, const std::string& convolution_name,
                         torch::nn::Conv2d& convolution, const std::string& norm_name,
                         torch::nn::BatchNorm2d& norm) {
  convolution = owner.replace_module(convolution_name, folded(convolution, norm));
  owner.unregister_module(norm_name);
  norm = nullptr;
}

inline void fold_all(torch::nn::Module& root) {
  for (const auto& module : root.modules(/*include_self=*/false)) {
    if (auto* foldable = dynamic_cast<Foldable*>(module.get())) foldable->fold();
  }
  if (auto* foldable = dynamic_cast<Foldable*>(&root)) foldable->fold();
}

inline void prepare_for_inference(torch::nn::Module& module) {
  module.eval();
  with_torch_seed(0, [&] { fold_all(module); });  // a new convolution draws weights of its own
  to_channels_last(module);
  for (auto& parameter : module.parameters()) parameter.set_requires_grad(false);
}

}  // namespace refine::nn
