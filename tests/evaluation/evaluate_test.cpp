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
#include <functional>
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

TEST(Evaluate, AttackThatReturnsFewerImages_IsRefused) {
  struct OneForAll : SecondByte {
    at::Tensor trigger_images(const at::Tensor& images) const {
      return SecondByte::trigger_images(images.slice(0, 0, 1));
    }
  };
  expect_words(error_of([] { evaluate(Stub{}, test_set, OneForAll{}); }),
               {"attack.trigger_images", "got 1", "for 2"});
  struct FewerOfMany : SecondByte {  // not seen on two images
    at::Tensor trigger_images(const at::Tensor& images) const {
      return SecondByte::trigger_images(images.slice(0, 0, std::max<std::int64_t>(images.size(0) - 1, 2)));
    }
  };
  expect_words(error_of([] { evaluate(Stub{}, test_set, FewerOfMany{}); }),
               {"attack.trigger_images", "got 7", "for 8"});
}

TEST(Evaluate, AttackThatWritesToItsArgument_LeavesTheCallersImages) {
  struct InPlace : SecondByte {
    at::Tensor trigger_images(const at::Tensor& images) const {
      at::Tensor same = images;
      same.select(3, 1).fill_(255);
      return same;
    }
  };
  data::Dataset set = test_set;
  set.images = test_set.images.clone();
  set.images.narrow(0, 0, 2).select(3, 1).fill_(255);  // the first two do not show that it writes
  const at::Tensor kept = set.images.clone();
  evaluate(Stub{}, set, InPlace{});
  EXPECT_TRUE(set.images.equal(kept));
  const at::Tensor before = test_set.images.clone();
  const Pipeline defense{transforms::None<task.image>{}, Stub{}, remaps::Shift<task>{.by = 0}};
  const Evaluation result = evaluate(defense, test_set, InPlace{});
  EXPECT_TRUE(test_set.images.equal(before));
  for (const auto& figures : {result.before, result.after, evaluate(Stub{}, test_set, InPlace{})}) {
    EXPECT_EQ(figures.ba, (metrics::Proportion{5, 8}));
    EXPECT_EQ(figures.asr, (metrics::Proportion{4, 6}));
  }
}

/// A defense that changes the logits of `Stub`.
struct ChangesLogits {
  std::function<at::Tensor(const at::Tensor&)> change;

  Task task() const { return refine::task; }
  at::Device device() const { return at::kCPU; }
  at::Tensor undefended(const at::Tensor& images) const { return Stub{}.forward(images); }
  at::Tensor forward(const at::Tensor& images) const { return change(undefended(images)); }
  at::Tensor transformed(const at::Tensor& images) const { return images; }
  at::Tensor alarm(const at::Tensor& images) const { return change(undefended(images)); }
};

TEST(Evaluate, LogitsOfAnotherShape_AreRefused) {
  const std::vector<std::pair<std::function<at::Tensor(const at::Tensor&)>, std::string>> cases = {
      {[](const at::Tensor& logits) { return logits.mean(0, true); }, "got 1×3"},
      {[](const at::Tensor& logits) { return logits.slice(0, 0, 1); }, "got 1×3"},
      {[](const at::Tensor& logits) { return logits.slice(0, 1); }, "got 7×3"},
      {[](const at::Tensor& logits) { return logits.slice(1, 0, 2); }, "got 8×2"},
      {[](const at::Tensor& logits) { return logits.argmax(1); }, "got 8"},
      {[](const at::Tensor& logits) { return logits[0]; }, "got 3"},
      {[](const at::Tensor& logits) { return logits.mean(); }, "a single number"},
      {[](const at::Tensor&) { return at::Tensor(); }, "undefined"}};
  for (const auto& [change, shape] : cases) {
    const ChangesLogits defense{change};
    for (const auto& line : {error_of([&] { evaluate(defense, test_set, SecondByte{}); }),
                             error_of([&] { evaluate_clean(defense, test_set); }), error_of([&] {
                               paired_answers(defense, test_set.images, [](std::int64_t) {});
                             })}) {
      expect_words(line, {"forward (the defense)", "logits", shape, "expected 8×3"});
    }
  }
}

TEST(AlarmScores, AnotherNumberThanImages_IsRefused) {
  const auto scores = [](auto change) {
    return error_of([&] { alarm_scores(ChangesLogits{change}, test_set.images); });
  };
  expect_words(scores([](const at::Tensor& logits) { return logits.slice(0, 0, 1).select(1, 0); }),
               {"a score for each image", "got 1,", "expected 8"});
  expect_words(scores([](const at::Tensor& logits) { return logits.mean(); }), {"a single number"});
}

TEST(Evaluate, LogitsThatAreNotFinite_AreCountedAndRefused) {
  // Six of the eight images are of class 0 or 1 for the victim; those of class 2 are the sixth and seventh.
  const auto two_become = [](double value) {
    return ChangesLogits{[=](const at::Tensor& logits) {
      return logits.masked_fill(logits.select(1, 2).eq(1).unsqueeze(1), value);
    }};
  };
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    expect_words(error_of([&] { evaluate(two_become(value), test_set, SecondByte{}); }),
                 {"the defense", "2 of 8", "not finite"});
    expect_words(error_of([&] { evaluate_clean(two_become(value), test_set); }), {"the defense", "2 of 8"});
  }
  struct Nan : Stub {
    at::Tensor forward(const at::Tensor& images) const { return Stub::forward(images) * std::nan(""); }
  };
  expect_words(error_of([&] { evaluate(Nan{}, test_set, SecondByte{}); }), {"the victim", "8 of 8"});
  // The gated answer treats such images as suspicious.
  EXPECT_EQ(paired_answers(two_become(std::nan("")), test_set.images, [](std::int64_t) {}).scores[5],
            HUGE_VAL);
}

TEST(Evaluate, ClassThatIsRuledOut_IsNoError) {
  // A logit of -infinity at a class that is not predicted.
  const ChangesLogits defense{
      [](const at::Tensor& logits) { return logits.masked_fill(logits.eq(0), -HUGE_VAL); }};
  EXPECT_EQ(evaluate(defense, test_set, SecondByte{}).after.ba, (metrics::Proportion{5, 8}));
}

TEST(Evaluate, DataOfOneClass_IsRefused) {
  struct OneClass {
    Task task = {refine::task.image, 1};
    std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("one");
    at::Tensor forward(const at::Tensor& images) const { return at::zeros({images.size(0), 1}); }
  };
  data::Dataset one = dataset({0, 0}, {0, 0});
  one.classes = {"a"};
  expect_words(error_of([&] { evaluate(OneClass{}, one, SecondByte{.target = 0}); }),
               {"at least 2 classes", "got 1"});
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

TEST(MapBatches, AnotherNumberOfRowsOrImages_IsRefused) {
  const at::Tensor images = at::zeros({5, 1, 1, 2}, at::kByte);
  const auto map = [&](auto answer, auto prepare) {
    return error_of([&] {
      map_batches(
          answer, images, at::kCPU, [](std::int64_t) {}, prepare);
    });
  };
  const auto same = [](const at::Tensor& x) { return x; };
  for (const std::int64_t rows : {1, 4, 6})
    expect_words(map(
                     [&](const at::Tensor&) {
                       return at::zeros({rows, 2});
                     },
                     same),
                 {"answer", "got " + std::to_string(rows) + "×2", "expected 5"});
  expect_words(map([](const at::Tensor& x) { return x.mean(); }, same), {"answer", "a single number"});
  for (const std::int64_t count : {1, 4})
    expect_words(map(same, [&](const at::Tensor& x) { return x.slice(0, 0, count); }),
                 {"prepare", "got " + std::to_string(count) + "×1×1×2", "expected 5"});
  EXPECT_EQ(map(same, same), "");
}

TEST(Classify, LogitsOfAnotherShape_AreRefused) {
  const auto of = [](auto answer) {
    return error_of([&] {
      classify(answer, at::zeros({4, 1, 1, 2}, at::kByte), at::kCPU, [](std::int64_t) {});
    });
  };
  expect_words(of([](const at::Tensor&) {
                 return at::zeros({1, 3});
               }),
               {"logits", "got 1×3", "expected 4×classes"});
  expect_words(of([](const at::Tensor&) { return at::zeros({4}); }), {"logits", "got 4,"});
  expect_words(of([](const at::Tensor&) { return at::zeros({4, 0}); }), {"logits", "got 4×0"});
}

TEST(Classify, NoImages_GiveNoClasses) {
  const auto none = classify([](const at::Tensor& x) { return x; }, at::empty({0, 1, 1, 2}, at::kByte),
                             at::kCPU, [](std::int64_t) {});
  EXPECT_TRUE(none.empty());
}

}  // namespace
}  // namespace refine
