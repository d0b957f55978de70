#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <cstdint>
#include <limits>

#include <refine/training/batch_augmentation.hpp>
#include <refine/training/loop.hpp>
#include <refine/training/recipe.hpp>

namespace refine::detail {

/// What the victim says of a batch, as the recipe's `teacher` asks it: logits N×classes, float, without
/// gradient.
class TeacherAnswers {
 public:
  /// \param images how many the training set has
  TeacherAnswers(const Recipe& recipe, std::int64_t images) : recipe_(recipe), images_(images) {}

  /// \param ask float images in [0, 1] → logits
  template <typename Ask>
  at::Tensor operator()(const Batch& batch, const BatchAugmentation& augmented, Ask&& ask) {
    c10::NoGradGuard no_grad;
    if (recipe_.teacher == Teacher::views) return ask(batch.images).to(at::kFloat);
    if (batch.first_epoch) {
      const at::Tensor said = ask(batch.plain.contiguous(at::MemoryFormat::ChannelsLast)).to(at::kFloat);
      if (!known_.defined()) known_ = at::empty({images_, said.size(1)}, said.options());
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
  std::int64_t images_;
  at::Tensor known_;
};

}  // namespace refine::detail
