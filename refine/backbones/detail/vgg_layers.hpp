#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>

#include <array>
#include <cstdint>
#include <memory>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/config.hpp>

namespace refine::backbones::detail {

/// What a VGG is made of.
struct VggPlan {
  std::int64_t channels, classes, width;
  std::array<int, 5> groups;  ///< convolutions in each
  bool batch_norm;
  Variant variant;
};

class VggFeatures;
class VggClassifier;

class VggModule : public torch::nn::Cloneable<VggModule> {
 public:
  explicit VggModule(const VggPlan& plan);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

 private:
  VggPlan plan_;
  std::shared_ptr<VggFeatures> features_;
  std::shared_ptr<VggClassifier> classifier_;
  torch::nn::Linear linear_{nullptr};
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/vgg_layers.ipp>
#endif
