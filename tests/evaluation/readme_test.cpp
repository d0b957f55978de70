// The examples of refine/evaluation/README.md.

#include <gtest/gtest.h>
#include <refine/attacks/attacks.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/data/sources.hpp>
#include <refine/evaluation/evaluation.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

#include <iostream>

namespace evaluation_readme {

using namespace refine;

namespace {

constexpr Task task{ImageShape{3, 8, 8}, 4};

TEST(EvaluationReadme, Examples_Run) {
  const auto split = data::Synthetic{.task = task, .train = 0, .test = 16}.make();
  const Pipeline defense{transforms::UNet<task>{.levels = 2, .width = 4},
                         freeze(backbones::ResNet18<task>{.width = 4}), remaps::Derangement<task>{}};

  const attacks::BadNets<task> attack{.target = 0};
  const Evaluation result = evaluate(defense, split.test, attack);
  const double asr_reduction = result.before.asr.value() - result.after.asr.value();
  const metrics::Interval accuracy = result.after.ba.wilson();
  if (result.after.largest_lift.interval().low > 0.05) {
    // the trigger still moves images to class result.after.largest_lift.cls
  }

  const at::Tensor& images = split.test.images;
  const metrics::Proportion agreement = label_agreement(defense, images);
  const metrics::AlarmMetrics alarm = evaluate_alarm(defense, images.slice(0, 0, 8), images.slice(0, 8));
  for (const metrics::ScanEntry& entry : scan(defense, images, scan_catalogue(task.image))) {
    const metrics::Lift lift = metrics::max_lift_by_share(entry.before);
    if (lift.interval().low > 0.5)
      std::cout << entry.trigger << " sends images to class " << lift.cls << '\n';
  }

  for (const AnswerCost& cost : bench(defense, 0.9, {.batch_size = 8, .seconds = 0.1})) {
    const BatchCost& single = cost.batches.front();
    std::cout << cost.answer << ": " << 1000 * single.seconds.median << " ms, " << single.ratio.median
              << " of the victim's time, " << cost.multiply_adds << " multiply-adds\n";
  }

  EXPECT_EQ(agreement.n, 16);
  EXPECT_EQ(alarm.false_alarms.n, 8);
  EXPECT_GE(asr_reduction, -1);
  EXPECT_LE(accuracy.low, accuracy.high);
  EXPECT_EQ(result.after.ba.n, 16);
}

}  // namespace

}  // namespace evaluation_readme
