#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <concepts>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <refine/core/detail/erased.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/module.hpp>
#include <refine/transforms/transform.hpp>

namespace refine::transforms {

/// Holds any transform, of a type that is known only at run time. It is itself a `Transform`;
/// `freeze` takes it too. Copies share the module.
class AnyTransform {
 public:
  /// Holds a transform.
  /// \param transform shares its module with the copy that is held
  template <typename T>
  requires(refine::detail::OtherThan<T, AnyTransform>&& Transform<T>) AnyTransform(T transform)
      : image((check_members(transform), transform.image)),
        output_shape(output_shape_of(transform)),
        module(transform.module),
        cuda_graph_safe(nn::is_replayable(transform)),
        held_(refine::detail::Erased<Interface>::template with<Model<T>>(std::move(transform))) {}

  ImageShape image;                           ///< the held transform's image shape
  ImageShape output_shape;                    ///< the shape of the images that it returns
  std::shared_ptr<torch::nn::Module> module;  ///< the held transform's module
  bool cuda_graph_safe;                       ///< whether the held transform is `cuda_graph_safe`

  /// Returns images in [0, 1], of `output_shape`.
  /// \param images float N×C×H×W
  at::Tensor forward(const at::Tensor& images) const { return held_->forward(images); }

  /// Returns what the held transform draws, with its bottleneck if it has one.
  /// \param input images or, if the held transform has an encoder, features
  Drawn draw(const at::Tensor& input) const { return held_->draw(input); }

  /// Returns the features of images, float N×F.
  /// \param images float N×C×H×W
  /// \throws Error if the held transform has no encoder
  at::Tensor encode(const at::Tensor& images) const { return held_->encode(images); }

  /// Adapts the held transform to the features of the training images.
  /// \param features float N×F
  /// \throws Error if the held transform has no encoder
  void standardize(const at::Tensor& features) const { held_->standardize(features); }

  /// Returns the constant part of the module; null if the held transform has no encoder.
  std::shared_ptr<torch::nn::Module> encoder_module() const { return held_->encoder_module(); }

  /// Returns the part of the module that is trained.
  std::shared_ptr<torch::nn::Module> trained_module() const { return held_->trained_module(); }

  /// Returns the held transform's description, or an empty string if it has none.
  std::string describe() const { return held_->describe(); }

  /// Returns the same transform around another module.
  /// \param other a module of the same type
  /// \throws Error if it has another type
  AnyTransform with_module(const std::shared_ptr<torch::nn::Module>& other) const {
    AnyTransform copy = held_->with_module(other);
    copy.cuda_graph_safe = cuda_graph_safe;
    return copy;
  }

  /// True if `freeze` can copy the held transform.
  bool can_freeze() const { return held_->can_freeze(); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual at::Tensor forward(const at::Tensor& images) const = 0;
    virtual Drawn draw(const at::Tensor& input) const = 0;
    virtual at::Tensor encode(const at::Tensor& images) const = 0;
    virtual void standardize(const at::Tensor& features) const = 0;
    virtual std::shared_ptr<torch::nn::Module> encoder_module() const = 0;
    virtual std::shared_ptr<torch::nn::Module> trained_module() const = 0;
    virtual std::string describe() const = 0;
    virtual AnyTransform with_module(const std::shared_ptr<torch::nn::Module>& other) const = 0;
    virtual bool can_freeze() const = 0;
  };

  template <Transform T>
  struct Model final : Interface {
    explicit Model(T t) : transform(std::move(t)) {}

    at::Tensor forward(const at::Tensor& images) const override { return transform.forward(images); }

    Drawn draw(const at::Tensor& input) const override { return transforms::draw(transform, input); }

    at::Tensor encode(const at::Tensor& images) const override {
      if constexpr (EncodingTransform<T>) {
        return transform.encode(images);
      } else {
        throw Error("AnyTransform: the held transform has no encoder; check encoder_module() first");
      }
    }

    void standardize(const at::Tensor& features) const override {
      if constexpr (EncodingTransform<T>) {
        transform.standardize(features);
      } else {
        throw Error("AnyTransform: the held transform has no encoder; check encoder_module() first");
      }
    }

    std::shared_ptr<torch::nn::Module> encoder_module() const override {
      return encoder_module_of(transform);
    }

    std::shared_ptr<torch::nn::Module> trained_module() const override {
      return trained_module_of(transform);
    }

    std::string describe() const override { return nn::describe(transform); }

    AnyTransform with_module(const std::shared_ptr<torch::nn::Module>& other) const override {
      auto same_type = std::dynamic_pointer_cast<nn::ModuleOf<T>>(other);
      if (!same_type)
        throw Error("AnyTransform: the module must be of the same kind as the held transform's");
      return AnyTransform(nn::with_module(transform, std::move(same_type)));
    }

    bool can_freeze() const override { return transforms::can_freeze(transform); }

    T transform;
  };

  refine::detail::Erased<Interface> held_;
};

}  // namespace refine::transforms
