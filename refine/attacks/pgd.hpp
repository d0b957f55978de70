#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/device.hpp>

namespace refine::attacks {

/// Holds the attacker's own classifier, whose gradients tell how to change an image: any model with
/// `forward(images)`, which every backbone has, or a function, from float N×C×H×W in [0, 1] to
/// logits N×classes. Copies share the model.
class Surrogate {
 public:
  /// Holds no model.
  Surrogate() = default;

  /// Holds a model. Implicit, so that `Pgd{.model = benign}` works.
  ///
  /// \tparam M type of the model
  /// \param model has `forward(images)`
  template <typename M>
  requires(!std::same_as<M, Surrogate> &&
           requires(const M& m, const at::Tensor& images) {
             { m.forward(images) } -> std::same_as<at::Tensor>;
           }) Surrogate(M model)
      : held_(std::make_shared<Model<M>>(std::move(model))) {}

  /// Holds a function. It is called with images on `default_device()`.
  ///
  /// \tparam F type of the function
  /// \param function from images to logits
  template <typename F>
  requires(!std::same_as<F, Surrogate> && std::is_invocable_r_v<at::Tensor, const F&, const at::Tensor&>)
      Surrogate(F function)
      : held_(std::make_shared<Function<F>>(std::move(function))) {}

  /// True if there is a model.
  explicit operator bool() const { return held_ != nullptr; }

  /// Returns the model's task; `dynamic_task` if the model has none.
  Task task() const { return held_ ? held_->task() : dynamic_task; }

  /// Moves the model's module, if it has one, to `device` and sets it to evaluation mode.
  ///
  /// \param device to compute on
  /// \pre there is a model
  void prepare(at::Device device) const { held_->prepare(device); }

  /// Returns the logits, N×classes.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \pre there is a model
  /// \throws Error if the model fails on these images
  at::Tensor operator()(const at::Tensor& images) const {
    try {
      return held_->logits(images);
    } catch (const c10::Error& error) {
      throw Error(
          "the attacker's model fails on the images: {}; use a model that takes images of their shape",
          nn::describe_error(error));
    }
  }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual at::Tensor logits(const at::Tensor& images) const = 0;
    virtual void prepare(at::Device) const {}
    virtual Task task() const { return dynamic_task; }
  };

  template <typename M>
  struct Model final : Interface {
    M model;

    explicit Model(M m) : model(std::move(m)) {}
    at::Tensor logits(const at::Tensor& images) const override { return model.forward(images); }
    void prepare(at::Device device) const override {
      if constexpr (requires {
                      { *model.module } -> std::convertible_to<torch::nn::Module&>;
                    }) {
        model.module->to(device);
        model.module->eval();
      }
    }
    Task task() const override {
      if constexpr (requires {
                      { model.task } -> std::convertible_to<Task>;
                    }) {
        return model.task;
      } else {
        return dynamic_task;
      }
    }
  };

  template <typename F>
  struct Function final : Interface {
    F function;

    explicit Function(F f) : function(std::move(f)) {}
    at::Tensor logits(const at::Tensor& images) const override { return function(images); }
  };

  std::shared_ptr<const Interface> held_;
};

/// Changes images within ±epsilon so that a model no longer recognises their class, by projected
/// gradient descent (Madry et al., 2018, `madry2018pgd`).
///
/// Each step follows the sign of the gradient of the cross-entropy with the true label, and is
/// clamped to the ball around the image and to [0, 1]. The result of the last step is rounded to
/// bytes.
///
/// Determinism: the same fields and images, on the same device with the same number of threads,
/// give the same bytes on the CPU.
struct Pgd {
  Surrogate model = {};               ///< trained on clean images; moved to `default_device()`
  double epsilon = 8.0 / 255;         ///< largest change of a value, in [0, 1]
  double step = 1.5 / 255;            ///< length of a step, in (0, 1]
  int steps = 100;                    ///< number of steps, at least 1
  std::int64_t batch_size = 128;      ///< images at a time, at least 1
  bool random_start = false;          ///< true: starts at a random point of the ball, not at the image
  std::uint64_t seed = default_seed;  ///< seed of the random start
  std::filesystem::path store = {};   ///< file that keeps the result for the next run; empty: none
  bool show = false;                  ///< true: shows a progress line on standard error

  /// Returns the changed images: uint8 N×C×H×W on the host.
  ///
  /// If `store` has images that were made from the same input, settings and model, returns those.
  ///
  /// \param images uint8 N×C×H×W
  /// \param labels int64 N, each at least 0: the true classes
  /// \throws Error if there is no model, the model does not fit the images or the labels, its
  ///   logits or their gradient are not finite, images or labels are of another type or shape, a
  ///   field is out of range, or the store is damaged or not writable
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& labels) const;

  /// \throws Error if there is no model, or a field is out of range
  void check() const;

 private:
  at::Tensor perturb(const at::Tensor& images, const at::Tensor& labels, at::Device device) const;

  /// Returns uniform displacements in ±epsilon.
  at::Tensor draw_start(at::IntArrayRef sizes, Random& random) const;

  void require_inputs(const at::Tensor& images, const at::Tensor& labels) const;

  /// Identifies what the result depends on, except for the model.
  std::string store_key(const at::Tensor& images, const at::Tensor& labels) const;
};

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
#include <refine/attacks/impl/pgd.ipp>
#endif
