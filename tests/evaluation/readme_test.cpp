// The snippet of refine/evaluation/README.md.

#include <gtest/gtest.h>
#include <refine/attacks/attacks.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet18.hpp>
#include <refine/data/synthetic.hpp>
#include <refine/evaluation/evaluation.hpp>
#include <refine/remaps/derangement.hpp>
#include <refine/transforms/unet.hpp>

using namespace refine;

namespace {

constexpr Task task{ImageShape{3, 8, 8}, 4};

TEST(EvaluationReadme, Measures) {
  const auto split = data::Synthetic{.task = task, .train = 0, .test = 16}.make();
  const Pipeline defense{transforms::UNet<task>{.levels = 2, .width = 4},
                         freeze(backbones::ResNet18<task>{.width = 4}), remaps::Derangement<task>{}};

  const attacks::BadNets<task> attack{.target = 0};
  const Evaluation result = evaluate(defense, split.test, attack);
  const double gone = result.before.asr.value() - result.after.asr.value();
  const metrics::Interval sure = result.after.ba.wilson();
  if (result.after.largest_lift.interval().low > 0.05) {
    // the trigger still moves images, to class result.after.largest_lift.cls
  }

  EXPECT_GE(gone, -1);
  EXPECT_LE(sure.low, sure.high);
  EXPECT_EQ(result.after.ba.n, 16);
}

}  // namespace
