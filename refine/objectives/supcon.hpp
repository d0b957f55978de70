#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/matmul.h>

namespace refine::objectives {

/// Supervised contrastive loss (Khosla et al., 2020, `khosla2020supcon`) over two identical views, as the
/// published method uses it. Two identical views make a 2N×2N matrix out of N×N numbers, so only those are
/// computed: an anchor has itself once as a positive and every other image of its class twice, and its
/// denominator is 2·Σ_j e^{s_ij} − e^{s_ii}.
struct SupCon {
  double temperature = 0.07;       ///< above 0
  double base_temperature = 0.07;  ///< the loss is scaled by temperature / base_temperature

  /// \param features N×…, flattened and L2-normalised here \param labels int64 N \return a scalar
  at::Tensor operator()(const at::Tensor& features, const at::Tensor& labels) const {
    constexpr double tiny = 1e-12;  // as in torch.nn.functional.normalize
    at::Tensor unit = features.flatten(1);
    unit = unit / unit.norm(2, 1, /*keepdim=*/true).clamp_min(tiny);
    at::Tensor similarity = at::matmul(unit, unit.t()) / temperature;
    // Taking a constant from a row changes no ratio and keeps the exponentials small.
    similarity = similarity - similarity.detach().amax(1, /*keepdim=*/true);

    const at::Tensor itself = similarity.diagonal();
    const at::Tensor log_denominator = (2 * similarity.exp().sum(1) - itself.exp()).log();
    const at::Tensor same = labels.unsqueeze(0).eq(labels.unsqueeze(1)).to(similarity.scalar_type());
    const at::Tensor positives = 2 * same.sum(1) - 1;
    const at::Tensor mean_similarity = (2 * (same * similarity).sum(1) - itself) / positives;
    return (log_denominator - mean_similarity).mean() * (temperature / base_temperature);
  }
};

}  // namespace refine::objectives
