#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <concepts>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/clone.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/transforms/transform.hpp>

namespace refine::transforms {

/// Any transform network, by a type that is known only when the program runs. Copies share the module.
class AnyTransform {
 public:
  template <typename T>
  requires(!std::same_as<std::remove_cvref_t<T>, AnyTransform> && Transform<T>) AnyTransform(T transform)
      : image(transform.image),
        module(transform.module),
        cuda_graph_safe(nn::is_replayable(transform)),
        held_(std::make_shared<Model<T>>(std::move(transform))) {}

  ImageShape image;
  std::shared_ptr<torch::nn::Module> module;
  bool cuda_graph_safe;  ///< whether the held transform is

  /// Float N×C×H×W → float N×C×H×W in [0, 1].
  at::Tensor forward(const at::Tensor& images) const { return held_->forward(images); }

  /// What the held transform says of itself; empty where it says nothing.
  std::string describe() const { return held_->describe(); }

  /// The same policy around another module, of the same kind. \throws Error when it is of another kind
  AnyTransform with_module(const std::shared_ptr<torch::nn::Module>& other) const {
    AnyTransform same = held_->with_module(other);
    same.cuda_graph_safe = cuda_graph_safe;
    return same;
  }

  /// Whether `freeze` can copy the held transform.
  bool can_freeze() const { return held_->can_freeze(); }

 private:
  struct Held {
    virtual ~Held() = default;
    virtual at::Tensor forward(const at::Tensor& images) const = 0;
    virtual std::string describe() const = 0;
    virtual AnyTransform with_module(const std::shared_ptr<torch::nn::Module>& other) const = 0;
    virtual bool can_freeze() const = 0;
  };

  template <Transform T>
  struct Model final : Held {
    explicit Model(T t) : transform(std::move(t)) {}

    at::Tensor forward(const at::Tensor& images) const override { return transform.forward(images); }

    std::string describe() const override {
      if constexpr (requires { transform.describe(); }) {
        return transform.describe();
      } else {
        return {};
      }
    }

    AnyTransform with_module(const std::shared_ptr<torch::nn::Module>& other) const override {
      auto fitting = std::dynamic_pointer_cast<nn::ModuleOf<T>>(other);
      if (!fitting) throw Error("a transform was given another kind of module [AnyTransform]");
      return AnyTransform(nn::with_module(transform, std::move(fitting)));
    }

    bool can_freeze() const override { return transforms::can_freeze(transform); }

    T transform;
  };

  std::shared_ptr<const Held> held_;
};

}  // namespace refine::transforms
