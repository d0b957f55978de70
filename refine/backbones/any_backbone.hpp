#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <refine/backbones/backbone.hpp>
#include <refine/core/detail/erased.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/module.hpp>

namespace refine::backbones {

/// Holds any backbone, of a type that is known only at run time:
///
/// ```cpp
/// AnyBackbone victim{Normalized{ResNet18<>{.task = task}, normalizations::cifar10}};
/// ```
///
/// It is itself a `Backbone`; `freeze` and `train_classifier` take it too. Copies share the module.
class AnyBackbone {
 public:
  /// Holds a backbone. Explicit: a wrapper such as `Normalized<AnyBackbone>` would otherwise convert to
  /// the type that it wraps.
  /// \param backbone shares its module with the copy that is held
  /// \throws Error if its module is null
  template <typename B>
  requires(refine::detail::OtherThan<B, AnyBackbone>&& Backbone<B>) explicit AnyBackbone(B backbone)
      : task((check_members(backbone), backbone.task)),
        module(backbone.module),
        cuda_graph_safe(nn::is_replayable(backbone)),
        held_(refine::detail::Erased<Interface>::template with<Model<B>>(std::move(backbone))) {}

  Task task;                                  ///< the held backbone's task
  std::shared_ptr<torch::nn::Module> module;  ///< the held backbone's module
  bool cuda_graph_safe;                       ///< whether the held backbone is `cuda_graph_safe`

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return held_->forward(images); }

  /// Returns the images as the held backbone normalises them, or unchanged if it does not.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor normalize(const at::Tensor& images) const { return held_->normalize(images); }

  /// Returns logits N×classes.
  /// \param normalized what `normalize` returns
  at::Tensor forward_normalized(const at::Tensor& normalized) const {
    return held_->forward_normalized(normalized);
  }

  /// Returns the held backbone's tensors that its module does not hold, by name, on the CPU.
  std::map<std::string, at::Tensor> named_constants() const { return held_->named_constants(); }

  /// Returns what the held backbone's weights do not show, in one line; empty if it does not say.
  std::string describe() const { return held_->describe(); }

  /// Returns the same backbone around another module.
  /// \param other a module of the same type
  /// \throws Error if it has another type
  AnyBackbone with_module(const std::shared_ptr<torch::nn::Module>& other) const {
    AnyBackbone copy = held_->with_module(other);
    copy.cuda_graph_safe = cuda_graph_safe;
    return copy;
  }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual at::Tensor forward(const at::Tensor& images) const = 0;
    virtual at::Tensor normalize(const at::Tensor& images) const = 0;
    virtual at::Tensor forward_normalized(const at::Tensor& normalized) const = 0;
    virtual std::map<std::string, at::Tensor> named_constants() const = 0;
    virtual std::string describe() const = 0;
    virtual AnyBackbone with_module(const std::shared_ptr<torch::nn::Module>& other) const = 0;
  };

  template <Backbone B>
  struct Model final : Interface {
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

    std::string describe() const override { return nn::describe(backbone); }

    AnyBackbone with_module(const std::shared_ptr<torch::nn::Module>& other) const override {
      using Module = std::remove_cvref_t<decltype(*backbone.module)>;
      auto same_type = std::dynamic_pointer_cast<Module>(other);
      if (!same_type) throw Error("AnyBackbone: the module must be of the same kind as the held backbone's");
      return AnyBackbone(backbones::with_module(backbone, std::move(same_type)));
    }

    B backbone;
  };

  refine::detail::Erased<Interface> held_;
};

}  // namespace refine::backbones
