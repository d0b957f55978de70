#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/backbones/detail/vit_blocks.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones {

/// A vision transformer (Dosovitskiy et al., 2021, `dosovitskiy2021vit`) in its form for small data
/// (Lee et al., 2021, `lee2021vit_small`): tokens are patches of the image and of four shifted
/// copies of it, no token attends to itself, and each attention learns its temperature. Height and
/// width of the images must be known, and multiples of `patch`.
///
/// Structure, initial weights and parameter names are those of the authors' code:
/// `to_patch_embedding.to_patch_tokens.1.weight`, `pos_embedding`, `cls_token`,
/// `transformer.layers.0.0.norm.weight`, `transformer.layers.0.0.fn.temperature`, …,
/// `mlp_head.1.weight`.
///
/// It has no BatchNorm, so `freeze` has nothing to fold.
template <Task kTask = dynamic_task>
struct ViT {
  static constexpr Task static_task = kTask;     ///< the task that the type fixes
  static constexpr bool cuda_graph_safe = true;  ///< its work may be replayed as a CUDA graph

  Task task = kTask;  ///< what it classifies; all of it must be known
  /// Side of a patch in pixels; must divide height and width. The default is the common divisor of
  /// the two that is nearest to an eighth of the shorter side, among those that cut the shorter
  /// side into 2 to 32 patches.
  int patch = default_patch(merged(kTask, task).image);
  int width = 512;                          ///< length of a token, at least 1
  int depth = 6;                            ///< number of attention layers, at least 1
  int heads = 8;                            ///< heads of each attention, at least 1
  int head_width = std::max(1, width / 8);  ///< length of a token within one head, at least 1
  int mlp = width;                          ///< length of the hidden layer after each attention, at least 1
  /// Share of values that dropout sets to 0 in the tokens, after each attention, and in and after
  /// each hidden layer: at least 0, below 1.
  double dropout = 0.1;
  std::uint64_t seed = default_seed;  ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::ViTModule> module = make(task,
                                                   {.patch = patch,
                                                    .dim = width,
                                                    .depth = depth,
                                                    .heads = heads,
                                                    .head_width = head_width,
                                                    .mlp = mlp,
                                                    .dropout = dropout},
                                                   seed);

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1], of the task's height and width
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what the last layer takes, float N×F.
  /// \param images as `forward` takes them
  at::Tensor features(const at::Tensor& images) const { return module->features(images); }

 private:
  /// Returns 0 if no patch divides the image.
  static constexpr int default_patch(const ImageShape& image) {
    if (image.height == dynamic || image.width == dynamic) return 0;
    const int side = std::min(image.height, image.width), divisor = std::gcd(image.height, image.width);
    const auto distance = [side](int patch) { return std::max(8 * patch - side, side - 8 * patch); };
    int nearest = 0;
    for (int patch = std::max(2, (side + 31) / 32); 2 * patch <= side; ++patch) {
      // If two are equally near, take the larger one, which makes fewer tokens.
      if (divisor % patch == 0 && (nearest == 0 || distance(patch) <= distance(nearest))) nearest = patch;
    }
    return nearest;
  }

  static std::shared_ptr<detail::ViTModule> make(const Task& task, detail::ViTExtents extents,
                                                 std::uint64_t seed) {
    detail::require_buildable("ViT", kTask, task, /*min_side=*/1, static_cast<int>(extents.dim));
    const Task merged_task = merged(kTask, task);
    const auto& [channels, height, width] = merged_task.image;
    Message why;
    if (height == dynamic || width == dynamic) {
      why << "ViT: height and width of the images must be known (got " << merged_task.image
          << "); set .task = Task{ImageShape{3, 32, 32}, 10}";
    } else if (extents.patch == 0 && default_patch(merged_task.image) == 0) {
      why << "ViT: no square patch of at least 2 pixels cuts " << merged_task.image
          << " images into 2 to 32 along the shorter side; set a .patch that divides height and width, or "
             "resize the images";
    } else if (extents.patch < 1 || height % extents.patch != 0 || width % extents.patch != 0) {
      why << "ViT: patches must divide the images (got " << merged_task.image << " images, " << extents.patch
          << "x" << extents.patch << " patches); set a .patch that divides height and width";
    } else if (extents.depth < 1 || extents.heads < 1 || extents.head_width < 1 || extents.mlp < 1) {
      why << "ViT: depth, heads, head_width and mlp must be at least 1 (got depth " << extents.depth
          << ", heads " << extents.heads << ", head_width " << extents.head_width << ", mlp " << extents.mlp
          << ")";
    }
    require_agreement(why);
    if (!(extents.dropout >= 0 && extents.dropout < 1)) {
      throw Error("ViT: dropout must be at least 0 and below 1, got {}", extents.dropout);
    }
    extents.channels = channels;
    extents.height = height;
    extents.width = width;
    extents.classes = merged_task.classes;
    return nn::with_torch_seed(seed, [&] { return std::make_shared<detail::ViTModule>(extents); });
  }
};

}  // namespace refine::backbones
