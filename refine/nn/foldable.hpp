#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <string>

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
void fold_pair(torch::nn::Module& owner, const std::string& convolution_name, torch::nn::Conv2d& convolution,
               const std::string& norm_name, torch::nn::BatchNorm2d& norm);

/// `norm(x)`, or `x` where the norm has been folded away.
inline at::Tensor normed(torch::nn::BatchNorm2d& norm, const at::Tensor& x) {
  return norm.is_empty() ? x : norm->forward(x);
}

/// Folds every `Foldable` below (and at) `root`.
void fold_all(torch::nn::Module& root);

}  // namespace refine::nn

#if !defined(REFINE_COMPILED)
#include <refine/nn/foldable_definitions.hpp>
#endif
