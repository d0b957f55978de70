#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <concepts>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <refine/core/image_shape.hpp>
#include <refine/transforms/transform_network.hpp>

namespace refine::transforms {

/// Any transform network, by a type that is known only when the program runs. Copies share the module.
class AnyTransform {
 public:
  template <typename T>
  requires(!std::same_as<std::remove_cvref_t<T>, AnyTransform> && TransformNetwork<T>)
      AnyTransform(T transform)
      : image(transform.image),
        module(transform.module),
        held_(std::make_shared<Model<T>>(std::move(transform))) {}

  ImageShape image;
  std::shared_ptr<torch::nn::Module> module;

  /// Float N×C×H×W → float N×C×H×W in [0, 1].
  at::Tensor forward(const at::Tensor& images) const { return held_->forward(images); }

  /// What the held transform says of itself; empty where it says nothing.
  std::string describe() const { return held_->describe(); }

 private:
  struct Held {
    virtual ~Held() = default;
    virtual at::Tensor forward(const at::Tensor& images) const = 0;
    virtual std::string describe() const = 0;
  };

  template <TransformNetwork T>
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

    T transform;
  };

  std::shared_ptr<const Held> held_;
};

}  // namespace refine::transforms
