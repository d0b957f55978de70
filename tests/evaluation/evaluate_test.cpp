#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <refine/evaluation/evaluation.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/transform.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;

constexpr Task task{ImageShape{1, 1, 2}, 3};

/// Images of two bytes: the class that `Stub` gives, and the trigger.
data::Dataset dataset(const std::vector<std::int64_t>& truth, const std::vector<int>& answers) {
  data::Dataset set{.images = at::zeros({static_cast<std::int64_t>(truth.size()), 1, 1, 2}, at::kByte),
                    .labels = at::tensor(truth),
                    .classes = {"a", "b", "c"}};
  for (std::size_t i = 0; i < answers.size(); ++i)
    set.images[static_cast<std::int64_t>(i)][0][0][0] = answers[i];
  return set;
}

/// Answers the first byte, or class 1 if the second byte is set and the first is not 2.
struct Stub {
  static constexpr Task task = refine::task;
  static constexpr bool frozen = true;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("stub");

  at::Tensor forward(const at::Tensor& images) const {
    const at::Tensor bytes = (images * 255).round().to(at::kLong);
    const at::Tensor first = bytes.select(3, 0).flatten(), second = bytes.select(3, 1).flatten();
    const at::Tensor caught = second.gt(0).logical_and(first.ne(2));
    return at::one_hot(first * caught.logical_not() + caught, 3).to(at::kFloat);
  }
};

struct SecondByte {
  std::optional<int> target = 1;
  attacks::Poisoned poison(const data::Dataset& clean) const { return {clean, {}}; }
  at::Tensor trigger_images(const at::Tensor& images) const {
    at::Tensor stamped = images.clone();
    stamped.select(3, 1).fill_(255);
    return stamped;
  }
};

/// A classifier whose tensors are all buffers, on the meta device.
struct OnlyBuffers {
  struct Module : torch::nn::Module {
    Module() { register_buffer("x", at::zeros({2}, at::TensorOptions(at::kMeta))); }
  };
  static constexpr Task task = refine::task;
  std::shared_ptr<Module> module = std::make_shared<Module>();
  std::shared_ptr<std::vector<at::Device>> devices = std::make_shared<std::vector<at::Device>>();

  at::Tensor forward(const at::Tensor& images) const {
    devices->push_back(images.device());
    return at::zeros({images.size(0), 3});
  }
};

/// A transform that removes the trigger.
struct Wipe {
  static constexpr ImageShape image = task.image;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("wipe");
  at::Tensor forward(const at::Tensor& images) const {
    at::Tensor wiped = images.clone();
    wiped.select(3, 1).zero_();
    return wiped;
  }
};

// truth       0  0  0  1  1  2  2  2
// clean       0  0  1  1  0  2  2  0   correct: 0 0 . 1 . 2 2 . → 5 of 8
// triggered   1  1  1  1  1  2  2  1   six are of another class than 1: 4 are classified as 1, 2 correctly
const data::Dataset test_set = dataset({0, 0, 0, 1, 1, 2, 2, 2}, {0, 0, 1, 1, 0, 2, 2, 0});

TEST(Evaluate, VictimWithBuffersOnly_RunsOnItsDevice) {
  const OnlyBuffers victim;
  evaluate(victim, dataset({0, 1, 2, 0}, {0, 1, 2, 0}), SecondByte{});
  ASSERT_FALSE(victim.devices->empty());
  for (const at::Device device : *victim.devices) EXPECT_EQ(device, at::Device(at::kMeta));
}

TEST(Evaluate, Victim_IsCountedAsByHand) {
  const metrics::AttackMetrics figures = evaluate(Stub{}, test_set, SecondByte{});
  EXPECT_EQ(figures.ba, (metrics::Proportion{5, 8}));
  EXPECT_EQ(figures.asr, (metrics::Proportion{4, 6}));
  EXPECT_EQ(figures.ra, (metrics::Proportion{2, 6}));
  // Of those six, without the trigger: 0 0 1 2 2 0.
  EXPECT_DOUBLE_EQ(figures.lifts[0].value(), -3.0 / 6);
  EXPECT_DOUBLE_EQ(figures.lifts[1].value(), 3.0 / 6);
  EXPECT_DOUBLE_EQ(figures.lifts[2].value(), 0);
  EXPECT_EQ(figures.largest_lift.cls, 1);
  EXPECT_EQ(figures.clean(0, 0), 2);
  EXPECT_EQ(figures.clean(2, 0), 1);
  EXPECT_EQ(figures.triggered(1, 1), 2);
}

TEST(Evaluate, AttackWithoutTarget_HasNoSuccessRate) {
  const metrics::AttackMetrics figures = evaluate(Stub{}, test_set, SecondByte{.target = std::nullopt});
  EXPECT_TRUE(std::isnan(figures.asr.value()));
  EXPECT_EQ(figures.ra, (metrics::Proportion{4, 8}));
}

/// The attack of `SecondByte`, of class 0 only.
struct OnlyOfClass0 : SecondByte {
  std::optional<int> target_of(int cls, int classes) const {
    EXPECT_EQ(classes, 3);
    return cls == 2 ? std::nullopt : std::optional(1);
  }
};
static_assert(attacks::Attack<OnlyOfClass0>);

TEST(Evaluate, TargetOfEachClass_DefinesTheSuccessRate) {
  const metrics::AttackMetrics figures = evaluate(Stub{}, test_set, OnlyOfClass0{});
  EXPECT_EQ(figures.target, metrics::Target::of_classes({1, 1, {}}));
  EXPECT_EQ(figures.asr, (metrics::Proportion{3, 3}));
  EXPECT_EQ(figures.ra, (metrics::Proportion{0, 3}));
  EXPECT_EQ(figures.moved, (metrics::Proportion{3, 6}));  // of 0 0 1 2 2 0, two of class 0 and the last
  // Of the three images of class 0, two become 1; one is 1 without the trigger.
  EXPECT_EQ(figures.largest_pair_lift.truth, 0);
  EXPECT_EQ(figures.largest_pair_lift.lift,
            (metrics::Lift{.cls = 1, .with_trigger = 3, .without_trigger = 1, .gained = 2, .n = 3}));
}

TEST(Evaluate, Pipeline_IsComparedWithItsVictim) {
  // The pipeline only wipes the trigger: its answers are the clean ones, with and without the
  // trigger.
  const Pipeline defense{Wipe{}, Stub{}, remaps::Shift<task>{.by = 0}};
  const Evaluation result = evaluate(defense, test_set, SecondByte{});
  EXPECT_EQ(result.classes, test_set.classes);
  EXPECT_EQ(result.before.asr, (metrics::Proportion{4, 6}));
  EXPECT_EQ(result.after.ba, (metrics::Proportion{5, 8}));
  EXPECT_EQ(result.after.asr, (metrics::Proportion{1, 6}));
  EXPECT_EQ(result.after.ra, (metrics::Proportion{4, 6}));
  for (const auto& lift : result.after.lifts) EXPECT_EQ(lift.value(), 0);
  EXPECT_DOUBLE_EQ(result.der(), (0.5 - 0.0 + 1) / 2);
}

TEST(Evaluate, RenamedTarget_ShowsInTheLargestLift) {
  // No transform, but a shift: class 1 of the victim becomes class 2. The attack success rate falls
  // to 0 as if the attack were cured; the lift of class permutation[target] shows that it is not.
  const remaps::Shift<task> shift{.by = 1};
  const Pipeline defense{transforms::None<task.image>{}, Stub{}, shift};
  const Evaluation result = evaluate(defense, test_set, SecondByte{});
  // Triggered, renamed:  2  2  2  2  2  0  0  2
  EXPECT_EQ(result.after.asr, (metrics::Proportion{0, 6}));
  EXPECT_EQ(result.after.largest_lift.cls, shift.permutation[1]);
  EXPECT_DOUBLE_EQ(result.after.largest_lift.value(), 3.0 / 6);
  // Clean, renamed: 1 1 2 2 1 0 0 1; the truth is 0 0 0 1 1 2 2 2, only the fifth is correct.
  EXPECT_EQ(result.after.ba, (metrics::Proportion{1, 8}));
}

TEST(Evaluate, MoreImagesThanABatch_AreAllCounted) {
  const std::vector<std::int64_t> truth(600, 2);
  const Evaluation result = evaluate(Pipeline{Wipe{}, Stub{}, remaps::Shift<task>{.by = 0}},
                                     dataset(truth, std::vector<int>(600, 2)), SecondByte{});
  EXPECT_EQ(result.after.ba, (metrics::Proportion{600, 600}));
  EXPECT_EQ(result.after.ra, (metrics::Proportion{600, 600}));
}

/// Records the largest number of images stamped at once.
struct RecordsBatchSize : SecondByte {
  std::shared_ptr<std::int64_t> largest = std::make_shared<std::int64_t>(0);
  at::Tensor trigger_images(const at::Tensor& images) const {
    *largest = std::max(*largest, images.size(0));
    return SecondByte::trigger_images(images);
  }
};

TEST(Evaluate, Images_AreStampedABatchAtATime) {
  std::vector<std::int64_t> truth(1000);
  std::vector<int> answers(1000);
  for (std::size_t i = 0; i < 1000; ++i)
    truth[i] = static_cast<std::int64_t>(i % 3), answers[i] = i * 7 % 11 % 3;
  const data::Dataset many = dataset(truth, answers);
  const Pipeline defense{transforms::None<task.image>{}, Stub{}, remaps::Shift<task>{.by = 1}};
  const RecordsBatchSize attack;
  const Evaluation by_batch = evaluate(defense, many, attack);
  EXPECT_GT(*attack.largest, 1);
  EXPECT_LE(*attack.largest, 256);
  const Evaluation whole = evaluate(defense, many, attack.trigger_images(many.images), attack.target);
  for (const auto& [a, b] :
       {std::pair{by_batch.before, whole.before}, std::pair{by_batch.after, whole.after}}) {
    EXPECT_EQ(a.triggered, b.triggered);
    EXPECT_EQ(a.clean, b.clean);
    EXPECT_EQ(a.asr, b.asr);
    EXPECT_EQ(a.ra, b.ra);
    EXPECT_EQ(a.largest_lift.value(), b.largest_lift.value());
  }
  EXPECT_EQ(evaluate(Stub{}, many, attack).triggered, whole.before.triggered);
}

TEST(Evaluate, TriggerThatChangesTheShape_IsRefusedBeforeAnyWork) {
  struct Wider : SecondByte {
    at::Tensor trigger_images(const at::Tensor& images) const {
      return at::zeros({images.size(0), 1, 1, 3}, at::kByte);
    }
  };
  expect_words(error_of([] { evaluate(Stub{}, test_set, Wider{}); }), {"triggered images", "1x1x3"});
}

TEST(Evaluate, DataOfAnotherTask_IsRefused) {
  auto wide = test_set;
  wide.images = at::zeros({8, 1, 1, 3}, at::kByte);
  expect_words(error_of([&] { evaluate(Stub{}, wide, SecondByte{}); }),
               {"the backbone", "got 1x1x3", "expected 1x1x2 images of 3 classes"});
  const Pipeline defense{Wipe{}, Stub{}, remaps::Shift<task>{}};
  expect_words(error_of([&] { evaluate(defense, wide, SecondByte{}); }),
               {"the pipeline", "got 1x1x3", "expected 1x1x2 images of 3 classes"});
  auto four = test_set;
  four.classes.push_back("d");
  expect_words(error_of([&] { evaluate(defense, four, SecondByte{}); }),
               {"got 1x1x2 images of 4 classes", "of 3 classes"});
  expect_words(error_of([&] { evaluate(defense, test_set, SecondByte{.target = 7}); }),
               {"attack's target", "got 7", "0 to 2"});
}

TEST(MapBatches, MemoryIsShort_GoesOnWithHalfTheBatch) {
  const at::Tensor images = at::arange(10, at::kByte).reshape({10, 1, 1, 1});
  std::vector<std::int64_t> batches;
  std::int64_t largest = 3;
  const auto answer = [&](const at::Tensor& x) {
    batches.push_back(x.size(0));
    if (x.size(0) > largest) throw std::bad_alloc();
    return (x * 255).round().flatten(1);
  };
  std::int64_t done = 0;
  const auto advance = [&](std::int64_t n) { done += n; };
  const at::Tensor rows = map_batches(answer, images, at::kCPU, advance);
  EXPECT_TRUE(rows.equal(images.flatten(1).to(at::kFloat)));
  EXPECT_EQ(done, 10);
  EXPECT_EQ(batches, (std::vector<std::int64_t>{10, 5, 2, 2, 2, 2, 2}));

  largest = 0;
  EXPECT_THROW(map_batches(answer, images, at::kCPU, advance), std::bad_alloc);
  EXPECT_EQ(batches.back(), 1);
}

TEST(Classify, NoImages_GiveNoClasses) {
  const auto none = classify([](const at::Tensor& x) { return x; }, at::empty({0, 1, 1, 2}, at::kByte),
                             at::kCPU, [](std::int64_t) {});
  EXPECT_TRUE(none.empty());
}

}  // namespace
}  // namespace refine
