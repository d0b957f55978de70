#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/binary_cross_entropy.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/kl_div.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/softmax.h>

namespace refine::objectives {

/// The published loss (Chen et al., 2025, `chen2025refine`): binary cross-entropy, the mean over N·classes,
/// between the softmax of the remapped logits and the one-hot form of the class that the teacher names.
struct Bce {
  /// \param remapped logits N×classes, with gradient \param teacher the victim's own logits N×classes
  /// \return a scalar
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    const at::Tensor truth = at::one_hot(teacher.argmax(1), teacher.size(1)).to(remapped.scalar_type());
    const at::Tensor probability = at::softmax(remapped, 1);
    // LibTorch's op aborts on NaN, on a GPU for good. A loss of NaN can be reported.
    return at::binary_cross_entropy(probability.nan_to_num(0), truth) + 0 * probability.sum();
  }
};

/// Negative log-likelihood, the mean over N, of the class that the teacher names.
struct Nll {
  /// \param remapped logits N×classes, with gradient \param teacher the victim's own logits N×classes
  /// \return a scalar
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    return at::cross_entropy_loss(remapped, teacher.argmax(1));
  }
};

/// Knowledge distillation (Hinton et al., 2015, `hinton2015distilling`): the Kullback–Leibler divergence, the
/// mean over N, from the teacher's softmax to that of the remapped logits, both at `temperature`, times its
/// square.
struct Distillation {
  double temperature = 1;  ///< above 0

  /// \param remapped logits N×classes, with gradient \param teacher the victim's own logits N×classes
  /// \return a scalar
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    constexpr bool log_target = true;
    const at::Tensor divergence =
        at::kl_div(at::log_softmax(remapped / temperature, 1), at::log_softmax(teacher / temperature, 1),
                   at::Reduction::Sum, log_target);
    return divergence * (temperature * temperature / static_cast<double>(remapped.size(0)));
  }
};

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
