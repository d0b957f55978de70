#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include <refine/attacks/surrogate.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/seed.hpp>

namespace refine::attacks {

/// Projected gradient descent (Madry et al., 2018, `madry2018pgd`): changes images within ±epsilon so that a
/// model no longer sees their class. Each step goes along the sign of the gradient of the cross-entropy with
/// the true label, then back into the ball and into [0, 1]; the last is rounded to bytes.
///
/// *Determinism*: the same fields and images on the same device, with the same number of threads, give the
/// same bytes on the CPU.
struct Pgd {
  Surrogate model = {};        ///< trained on clean images; moved to `default_device()`, in evaluation mode
  double epsilon = 8.0 / 255;  ///< of the largest change of a value in [0, 1]
  double step = 1.5 / 255;     ///< above 0
  int steps = 100;             ///< 1 or more
  std::int64_t batch_size = 128;
  bool random_start = false;          ///< from anywhere in the ball rather than from the image
  std::uint64_t seed = default_seed;  ///< of the random start
  std::filesystem::path store = {};   ///< a file that keeps the result for the next run; empty: none
  bool show = false;                  ///< a progress line on standard error

  /// uint8 N×C×H×W and their int64 labels N → uint8 of the same shape, on the host. \throws Error when there
  ///   is no model, it does not fit the images, its logits or their gradient are not finite, images or labels
  ///   are others than said, a field is out of range, or the store is damaged or can't be written to
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& labels) const;

  /// \throws Error when there is no model, or a field is out of its range
  void check() const;

 private:
  at::Tensor perturbed(const at::Tensor& images, const at::Tensor& labels, at::Device device) const;

  at::Tensor start(at::IntArrayRef sizes, Random& random) const;

  /// Of the summed cross-entropy with respect to the images alone. `finite` stays true while all is.
  at::Tensor gradient(const at::Tensor& images, const at::Tensor& labels, at::Tensor& finite) const;

  /// The sign of NaN is 0: without this, images that the model says nothing of would stay as they are.
  static void require_finite(const at::Tensor& finite);

  void require_fitting(const at::Tensor& images, const at::Tensor& labels) const;

  at::Tensor fitting_logits(const at::Tensor& images, const at::Tensor& labels, at::Device device) const;

  std::string key(const at::Tensor& images, const at::Tensor& labels) const;
};

}  // namespace refine::attacks

#if !defined(REFINE_COMPILED)
#include <refine/attacks/pgd_definitions.hpp>
#endif
