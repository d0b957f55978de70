// The example of refine/objectives/README.md.

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <gtest/gtest.h>
#include <refine/objectives/objectives.hpp>

namespace objectives_readme {

using namespace refine;

namespace {

/// Cross-entropy against the victim's probabilities instead of its class.
struct SoftLabels {
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    return at::cross_entropy_loss(remapped, at::softmax(teacher, 1));
  }
};
static_assert(objectives::Objective<SoftLabels>);

TEST(ObjectivesReadme, SoftLabels_DifferFromDistillationByTheTeachersEntropy) {
  const at::Tensor remapped = at::randn({5, 3}, at::kDouble), teacher = at::randn({5, 3}, at::kDouble);
  const at::Tensor entropy = -(at::softmax(teacher, 1) * at::log_softmax(teacher, 1)).sum(1).mean();
  EXPECT_NEAR(SoftLabels{}(remapped, teacher).item<double>(),
              (objectives::Distillation{}(remapped, teacher) + entropy).item<double>(), 1e-12);
}

}  // namespace

}  // namespace objectives_readme
