#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <refine/attacks/pgd.hpp>
#include <refine/core/random.hpp>

namespace refine::attacks {

/// Finds one change of at most ±epsilon that, added to any image, makes a model predict a class: a targeted
/// universal adversarial perturbation (Moosavi-Dezfooli et al., 2017, `moosavi2017universal`).
///
/// Each step takes a batch of images and follows the sign of the gradient of the mean cross-entropy with the target,
/// clamped to ±epsilon, as in Shafahi et al. (2020, `shafahi2020universal`). With the defended model as `.model` and
/// triggered images, this asks whether a backdoor can be woken behind the defense:
///
///     const at::Tensor change = attacks::UniversalPerturbation{.model = defense, .target = 0}(triggered);
///     const auto woken = triggers::stamp(triggers::Perturbation<>{.values = change}, triggered_test);
///     std::cout << evaluate(defense, test, woken, 0);
///
/// Determinism: the same fields and images, on the same device with the same number of threads, give the same result
/// on the CPU.
struct UniversalPerturbation {
  Surrogate model = {};               ///< to be misled; moved to `default_device()`
  int target = 0;                     ///< class that is to be predicted
  double epsilon = 8.0 / 255;         ///< largest change of a value, in [0, 1]
  double step = epsilon / 10;         ///< length of a step, in [0, 1]
  int steps = 300;                    ///< number of steps, at least 1
  std::int64_t batch_size = 128;      ///< images of a step, at least 1
  std::uint64_t seed = default_seed;  ///< seed of the choice of images
  bool show = false;                  ///< true: shows a progress line on standard error

  /// Returns the change: float C×H×W in ±epsilon, on the host.
  ///
  /// \param images uint8 N×C×H×W, N at least 1; each step takes the next `batch_size` in a random order
  /// \throws Error if there is no model, the model does not fit the images or has no class `target`, its logits or
  ///   their gradient are not finite, images are of another type or shape, or a field is out of range
  at::Tensor operator()(const at::Tensor& images) const;

  /// \throws Error if there is no model, or a field is out of range
  void check() const;
};

}  // namespace refine::attacks

#if !defined(REFINE_COMPILED_LIB)
#include <refine/attacks/impl/universal_perturbation.ipp>
#endif
