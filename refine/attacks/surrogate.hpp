#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/core/one_line.hpp>
#include <refine/core/task.hpp>

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
      throw Error(
          "refine: the attacker's model fails on the images: {}; give one that was made for them [pgd]",
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

}  // namespace refine::attacks
