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
#include <refine/core/text.hpp>

namespace refine::attacks {

/// A classifier of the attacker's own, its type forgotten, whose gradients tell how to change an image. From
/// anything with `forward(images)`, as every backbone has it, or a function: float N×C×H×W in [0, 1] → logits
/// N×classes. Copies share the model.
class Surrogate {
 public:
  /// None.
  Surrogate() = default;

  /// From a model, without being asked: `Pgd{.model = benign}`.
  template <typename M>
  requires(!std::same_as<M, Surrogate> &&
           requires(const M& m, const at::Tensor& images) {
             { m.forward(images) } -> std::same_as<at::Tensor>;
           }) Surrogate(M model)
      : held_(std::make_shared<Model<M>>(std::move(model))) {}

  /// From a function; it finds images on `default_device()`.
  template <typename F>
  requires(!std::same_as<F, Surrogate> && std::is_invocable_r_v<at::Tensor, const F&, const at::Tensor&>)
      Surrogate(F function)
      : held_(std::make_shared<Function<F>>(std::move(function))) {}

  explicit operator bool() const { return held_ != nullptr; }

  /// What the model is for, where it says so; else all is `dynamic`.
  Task task() const { return held_ ? held_->task() : dynamic_task; }

  /// Moves the model to `device`, in evaluation mode, where it has a module to move. \pre there is a model
  void prepare(at::Device device) const { held_->prepare(device); }

  /// \pre there is a model \throws Error when it fails on these images
  at::Tensor operator()(const at::Tensor& images) const {
    try {
      return held_->logits(images);
    } catch (const c10::Error& error) {
      throw Error("the attacker's model fails on the images: {}; give one that was made for them",
                  one_line(error.what_without_backtrace()));
    }
  }

 private:
  struct Held {
    virtual ~Held() = default;
    virtual at::Tensor logits(const at::Tensor& images) const = 0;
    virtual void prepare(at::Device) const {}
    virtual Task task() const { return dynamic_task; }
  };

  template <typename M>
  struct Model final : Held {
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
  struct Function final : Held {
    F function;

    explicit Function(F f) : function(std::move(f)) {}
    at::Tensor logits(const at::Tensor& images) const override { return function(images); }
  };

  std::shared_ptr<const Held> held_;
};

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

#if !defined(REFINE_COMPILED_LIB)
#include <refine/attacks/impl/pgd.ipp>
#endif
