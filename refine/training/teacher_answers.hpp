#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Device.h>
#include <c10/core/GradMode.h>

#include <limits>

#include <refine/data/pixels.hpp>
#include <refine/training/batch_augmentation.hpp>
#include <refine/training/loop.hpp>
#include <refine/training/recipe.hpp>

namespace refine::detail {

/// What the victim says of a batch, as the recipe's `teacher` asks it: logits N×classes, float, without
/// gradient.
class TeacherAnswers {
 public:
  /// \param bytes uint8 N×C×H×W, the training set \param device where the victim is
  TeacherAnswers(const Recipe& recipe, const at::Tensor& bytes, at::Device device)
      : recipe_(recipe), bytes_(bytes), device_(device) {}

  /// \param ask float images in [0, 1] → logits
  template <typename Ask>
  at::Tensor operator()(const Batch& batch, const BatchAugmentation& augmented, Ask&& ask) {
    c10::NoGradGuard no_grad;
    if (recipe_.teacher == Teacher::views) return ask(batch.images).to(at::kFloat);
    if (batch.first_epoch) {
      const at::Tensor plain =
          data::to_float(bytes_.index_select(0, batch.indices.to(bytes_.device())), device_);
      const at::Tensor said = ask(plain.contiguous(at::MemoryFormat::ChannelsLast)).to(at::kFloat);
      if (!known_.defined()) known_ = at::empty({bytes_.size(0), said.size(1)}, said.options());
      known_.index_copy_(0, batch.indices, said);
    }
    const at::Tensor said = known_.index_select(0, batch.indices);
    if (recipe_.augmentation.mix == 0) return said;
    // Probabilities are mixed, at temperature 1 whatever the objective's; their logarithms are logits again.
    return augmented.rows(said.softmax(1), recipe_.seed, batch.step)
        .clamp_min_(std::numeric_limits<float>::min())
        .log_();
  }

 private:
  const Recipe& recipe_;
  const at::Tensor& bytes_;
  at::Device device_;
  at::Tensor known_;
};

}  // namespace refine::detail
