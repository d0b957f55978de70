#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/cuda_graph.hpp>

namespace refine::backbones {

/// Any backbone, by a type that is known only when the program runs, as a command line needs it:
///
///     AnyBackbone victim{Normalized{ResNet18<>{.task = task}, normalizations::cifar10}};
///
/// Everything that takes a `Backbone` takes it, `freeze` and `train_classifier` too. Copies share the module.
class AnyBackbone {
 public:
  template <typename B>
  requires(!std::same_as<std::remove_cvref_t<B>, AnyBackbone> && Backbone<B>) explicit AnyBackbone(B backbone)
      : task(backbone.task),
        module(backbone.module),
        cuda_graph_safe(nn::is_replayable(backbone)),
        held_(std::make_shared<Model<B>>(std::move(backbone))) {}

  Task task;
  std::shared_ptr<torch::nn::Module> module;
  bool cuda_graph_safe;  ///< whether the held backbone is

  /// Float N×C×H×W in [0, 1] → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return held_->forward(images); }

  /// The identity where the held backbone has no normalisation of its own.
  at::Tensor normalize(const at::Tensor& images) const { return held_->normalize(images); }

  at::Tensor forward_normalized(const at::Tensor& normalized) const {
    return held_->forward_normalized(normalized);
  }

  std::map<std::string, at::Tensor> named_constants() const { return held_->named_constants(); }

  /// The same policy around another module, of the same kind. \throws Error when it is of another kind
  AnyBackbone with_module(const std::shared_ptr<torch::nn::Module>& other) const {
    AnyBackbone same = held_->with_module(other);
    same.cuda_graph_safe = cuda_graph_safe;
    return same;
  }

 private:
  struct Held {
    virtual ~Held() = default;
    virtual at::Tensor forward(const at::Tensor& images) const = 0;
    virtual at::Tensor normalize(const at::Tensor& images) const = 0;
    virtual at::Tensor forward_normalized(const at::Tensor& normalized) const = 0;
    virtual std::map<std::string, at::Tensor> named_constants() const = 0;
    virtual AnyBackbone with_module(const std::shared_ptr<torch::nn::Module>& other) const = 0;
  };

  template <Backbone B>
  struct Model final : Held {
    explicit Model(B b) : backbone(std::move(b)) {}

    at::Tensor forward(const at::Tensor& images) const override { return backbone.forward(images); }

    at::Tensor normalize(const at::Tensor& images) const override {
      if constexpr (NormalizingBackbone<B>) {
        return backbone.normalize(images);
      } else {
        return images;
      }
    }

    at::Tensor forward_normalized(const at::Tensor& normalized) const override {
      if constexpr (NormalizingBackbone<B>) {
        return backbone.forward_normalized(normalized);
      } else {
        return backbone.forward(normalized);
      }
    }

    std::map<std::string, at::Tensor> named_constants() const override { return constants_of(backbone); }

    AnyBackbone with_module(const std::shared_ptr<torch::nn::Module>& other) const override {
      using Module = std::remove_cvref_t<decltype(*backbone.module)>;
      auto fitting = std::dynamic_pointer_cast<Module>(other);
      if (!fitting) throw Error("a backbone was given another kind of module [AnyBackbone]");
      return AnyBackbone(backbones::with_module(backbone, std::move(fitting)));
    }

    B backbone;
  };

  std::shared_ptr<const Held> held_;
};

}  // namespace refine::backbones
