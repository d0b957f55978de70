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
#include <fmt/core.h>

#include <concepts>
#include <string>

#include <refine/core/check.hpp>

/// \namespace refine::objectives
/// The losses that a transform is trained with. An objective compares two sets of logits: those of
/// the defended pipeline and those of the victim alone, its teacher. None of them takes labels. Any
/// type that meets `Objective` can be passed to `fit`:
///
///     struct SoftLabels {
///       at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
///         return at::cross_entropy_loss(remapped, at::softmax(teacher, 1));
///       }
///     };
///     fit(defense, images, SoftLabels{}, recipes::fast);
namespace refine::objectives {

struct SupCon;

/// A loss between the defended logits and the teacher's, as a function object. For a constant `o`
/// of type `O`:
///
///  1. `o(remapped, teacher)` returns the loss: a float tensor without dimensions, differentiable
///     in `remapped`. Both arguments are float N×classes on one device, N ≥ 1, under the same class
///     names. `remapped` are the pipeline's logits, with gradient; `teacher` are the victim's,
///     without. With several ranks, each has a part of the rows, so it must be a mean over them;
///  2. `O` is copyable;
///  3. optionally, `O` has `static constexpr bool cuda_graph_safe = true;`: on a GPU the call may
///     then be recorded as a CUDA graph and replayed. It must launch the same work for every batch
///     of one shape, and neither wait for the device nor read a value from it;
///  4. optionally, `o.describe()` returns its settings in one line, as a `std::string`. A checkpoint is
///     resumed only with an objective of the same type and settings; what a lambda captures is not
///     compared.
///
/// The concept checks the types; `fit` checks the loss that is returned. `SupCon` is excluded by
/// name: its call looks the same, but it takes features and labels.
template <typename O>
concept Objective = std::copy_constructible<O> && !std::same_as<O, SupCon> &&
                    refine::detail::DescribeFits<O> && refine::detail::CudaGraphSafeFits<O> &&
                    requires(const O& objective, const at::Tensor& remapped, const at::Tensor& teacher) {
  { objective(remapped, teacher) } -> std::convertible_to<at::Tensor>;
};

/// The paper's loss (Chen et al., 2025, `chen2025refine`): binary cross-entropy, averaged over
/// N·classes, between the softmax of the remapped logits and the one-hot vector of the teacher's
/// class.
struct Bce {
  static constexpr bool cuda_graph_safe = true;  ///< replayed in CUDA graphs

  /// Returns the loss.
  /// \param remapped logits N×classes, with gradient
  /// \param teacher the victim's logits N×classes
  /// \return a tensor without dimensions
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    const at::Tensor truth = at::one_hot(teacher.argmax(1), teacher.size(1)).to(remapped.scalar_type());
    const at::Tensor probability = at::softmax(remapped, 1);
    // LibTorch's operator aborts on NaN, and a GPU does not recover from that. A loss of NaN can be
    // reported.
    return at::binary_cross_entropy(probability.nan_to_num(0), truth) + 0 * probability.sum();
  }
};

/// Negative log-likelihood of the teacher's class, averaged over N.
struct Nll {
  static constexpr bool cuda_graph_safe = true;  ///< replayed in CUDA graphs

  /// Returns the loss.
  /// \param remapped logits N×classes, with gradient
  /// \param teacher the victim's logits N×classes
  /// \return a tensor without dimensions
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    return at::cross_entropy_loss(remapped, teacher.argmax(1));
  }
};

/// Knowledge distillation (Hinton et al., 2015, `hinton2015distilling`): the Kullback–Leibler
/// divergence of the remapped logits' softmax from the teacher's, both at `temperature`, averaged
/// over N and multiplied with the square of the temperature.
struct Distillation {
  static constexpr bool cuda_graph_safe = true;  ///< replayed in CUDA graphs

  double temperature = 1;  ///< positive; higher values weigh the teacher's smaller logits more

  /// Returns the settings in one line.
  std::string describe() const { return fmt::format("temperature {}", temperature); }

  /// Returns the loss.
  /// \param remapped logits N×classes, with gradient
  /// \param teacher the victim's logits N×classes
  /// \return a tensor without dimensions
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    constexpr bool log_target = true;
    const at::Tensor divergence =
        at::kl_div(at::log_softmax(remapped / temperature, 1), at::log_softmax(teacher / temperature, 1),
                   at::Reduction::Sum, log_target);
    return divergence * (temperature * temperature / static_cast<double>(remapped.size(0)));
  }
};

/// Supervised contrastive loss (Khosla et al., 2020, `khosla2020supcon`) over two identical views
/// of each image, as the paper uses it. It pulls the features of images of one class together.
/// `fit` adds it to the objective, with `Recipe::supcon_weight`.
///
/// The 2N×2N similarities of two identical views repeat N×N values, so only those are computed: an
/// anchor has its other view once as a positive and every other image of its class twice, and its
/// denominator is 2·Σ_j e^{s_ij} − e^{s_ii}.
struct SupCon {
  double temperature = 0.07;       ///< divides the similarities, positive
  double base_temperature = 0.07;  ///< the loss is multiplied with temperature / base_temperature

  /// Returns the loss.
  /// \param features N×…, with gradient; they are flattened and L2-normalized
  /// \param labels int64 N
  /// \return a tensor without dimensions
  at::Tensor operator()(const at::Tensor& features, const at::Tensor& labels) const {
    constexpr double tiny = 1e-12;  // as in torch.nn.functional.normalize
    at::Tensor unit = features.flatten(1);
    unit = unit / unit.norm(2, 1, /*keepdim=*/true).clamp_min(tiny);
    at::Tensor similarity = at::matmul(unit, unit.t()) / temperature;
    // Subtracting a constant from a row changes no ratio and keeps the exponentials small.
    similarity = similarity - similarity.detach().amax(1, /*keepdim=*/true);

    const at::Tensor itself = similarity.diagonal();
    const at::Tensor log_denominator = (2 * similarity.exp().sum(1) - itself.exp()).log();
    const at::Tensor same = labels.unsqueeze(0).eq(labels.unsqueeze(1)).to(similarity.scalar_type());
    const at::Tensor positives = 2 * same.sum(1) - 1;
    const at::Tensor mean_similarity = (2 * (same * similarity).sum(1) - itself) / positives;
    return (log_denominator - mean_similarity).mean() * (temperature / base_temperature);
  }
};

static_assert(Objective<Bce> && Objective<Nll> && Objective<Distillation> && !Objective<SupCon>);

}  // namespace refine::objectives
