#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/backbones/detail/vit_blocks.hpp>
#include <refine/core/check.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones {

namespace detail {

class ShiftedPatches;
class Transformer;

class ViTModule : public torch::nn::Cloneable<ViTModule> {
 public:
  explicit ViTModule(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

 private:
  ViTExtents extents_;
  std::shared_ptr<ShiftedPatches> to_patch_embedding_;
  at::Tensor pos_embedding_, cls_token_;
  torch::nn::Dropout dropout_{nullptr};
  std::shared_ptr<Transformer> transformer_;
  torch::nn::Sequential mlp_head_{nullptr};
};

}  // namespace detail

/// A vision transformer (Dosovitskiy et al., 2021, `dosovitskiy2021vit`) in its form for small data (Lee et
/// al., 2021, `lee2021vit_small`): patches of an image and of four shifted ones are its tokens, no token
/// looks at itself, and each attention learns its temperature. The whole, its initial weights and the
/// parameter names are the reference's: `to_patch_embedding.to_patch_tokens.1.weight`, `pos_embedding`,
/// `cls_token`, `transformer.layers.0.0.norm.weight`, `transformer.layers.0.0.fn.temperature`, …,
/// `mlp_head.1.weight`. Images C×H×W, H and W known and multiples of `patch`: left out, that is the common
/// divisor of both which is nearest to an eighth of the shorter one, of those that make 2 to 32 patches of
/// it.
///
/// It has no BatchNorm: `freeze` folds nothing.
template <Task kTask = dynamic_task>
struct ViT {
  static constexpr Task static_task = kTask;
  static constexpr bool cuda_graph_safe = true;

  Task task = kTask;
  int patch = usual_patch(merged(kTask, task).image);  ///< pixels of its side, see above
  int width = 512;                                     ///< numbers of a token
  int depth = 6;                                       ///< attentions
  int heads = 8;                                       ///< of each attention
  int head_width = std::max(1, width / 8);             ///< numbers of a token that one head sees: 64
  int mlp = width;                                     ///< of the hidden layer after each attention
  double dropout = 0.1;  ///< of the tokens, after each attention, and in and after each hidden layer
  std::uint64_t seed = default_seed;  ///< of the initial weights
  std::shared_ptr<detail::ViTModule> module = make(task,
                                                   {.patch = patch,
                                                    .dim = width,
                                                    .depth = depth,
                                                    .heads = heads,
                                                    .head_width = head_width,
                                                    .mlp = mlp,
                                                    .dropout = dropout},
                                                   seed);

  /// Float N×C×H×W, of the task's height and width → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  /// 0 where there is none.
  static constexpr int usual_patch(const ImageShape& image) {
    if (image.height == dynamic || image.width == dynamic) return 0;
    const int side = std::min(image.height, image.width), both = std::gcd(image.height, image.width);
    const auto distance = [side](int patch) { return std::max(8 * patch - side, side - 8 * patch); };
    int nearest = 0;
    for (int patch = std::max(2, (side + 31) / 32); 2 * patch <= side; ++patch) {
      // Of two that are as near, the larger, which makes fewer tokens.
      if (both % patch == 0 && (nearest == 0 || distance(patch) <= distance(nearest))) nearest = patch;
    }
    return nearest;
  }

  static std::shared_ptr<detail::ViTModule> make(const Task& task, detail::ViTExtents extents,
                                                 std::uint64_t seed) {
    detail::require_buildable("ViT", kTask, task, /*least_side=*/1, static_cast<int>(extents.dim));
    const Task whole = merged(kTask, task);
    const auto& [channels, height, width] = whole.image;
    Message why;
    if (height == dynamic || width == dynamic) {
      why << "a ViT needs to know the height and width of its images, was told " << whole.image
          << "; say .task = Task{ImageShape{3, 32, 32}, 10}";
    } else if (extents.patch == 0 && usual_patch(whole.image) == 0) {
      why << "a ViT cuts its images into patches, no square of 2 pixels or more cuts " << whole.image
          << " into 2 to 32 along the shorter side; say a .patch that divides height and width, or resize "
             "the images";
    } else if (extents.patch < 1 || height % extents.patch != 0 || width % extents.patch != 0) {
      why << "a ViT cuts its images into patches, " << whole.image << " does not divide into those of "
          << extents.patch << "x" << extents.patch << "; say a .patch that divides height and width";
    } else if (extents.depth < 1 || extents.heads < 1 || extents.head_width < 1 || extents.mlp < 1) {
      why << "a ViT of depth " << extents.depth << ", " << extents.heads << " heads of width "
          << extents.head_width << " and mlp " << extents.mlp << " was asked for; each is at least 1";
    }
    require_agreement(why);
    if (!(extents.dropout >= 0 && extents.dropout < 1)) {
      throw Error("a ViT with dropout {} was asked for; it is a share, 0 or more and below 1",
                  extents.dropout);
    }
    extents.channels = channels;
    extents.height = height;
    extents.width = width;
    extents.classes = whole.classes;
    return nn::with_torch_seed(seed, [&] { return std::make_shared<detail::ViTModule>(extents); });
  }
};

}  // namespace refine::backbones

namespace refine::backbones::detail {

inline ViTModule::ViTModule(const ViTExtents& extents) : extents_(extents) {
  reset();
}

inline void ViTModule::reset() {
  const std::int64_t patches = (extents_.height / extents_.patch) * (extents_.width / extents_.patch);
  to_patch_embedding_ = register_module("to_patch_embedding", std::make_shared<ShiftedPatches>(extents_));
  pos_embedding_ = register_parameter("pos_embedding", at::randn({1, patches + 1, extents_.dim}));
  cls_token_ = register_parameter("cls_token", at::randn({1, 1, extents_.dim}));
  dropout_ = register_module("dropout", torch::nn::Dropout(extents_.dropout));
  transformer_ = register_module("transformer", std::make_shared<Transformer>(extents_));
  mlp_head_ = register_module(
      "mlp_head",
      torch::nn::Sequential(layer_norm(extents_.dim), torch::nn::Linear(extents_.dim, extents_.classes)));
}

inline at::Tensor ViTModule::forward(const at::Tensor& images) {
  const at::Tensor patches = to_patch_embedding_->forward(images);
  // `expand_as` and not `expand`, so that a trace has no batch size in it.
  const at::Tensor first = cls_token_.expand_as(patches.narrow(1, 0, 1));
  const at::Tensor tokens = dropout_->forward(at::cat({first, patches}, 1) + pos_embedding_);
  return mlp_head_->forward(transformer_->forward(tokens).select(1, 0));
}

}  // namespace refine::backbones::detail
