#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <refine/data/batches.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>

#include <algorithm>
#include <cstdint>
#include <ranges>
#include <vector>

#include <range/v3/view/enumerate.hpp>
#include <range/v3/view/filter.hpp>
#include <range/v3/view/take.hpp>
#include <range/v3/view/zip.hpp>

#include "tests/data/numbered.hpp"
#include "tests/support/error_of.hpp"

namespace refine::data {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::Indices;
using refine::testing::numbered;
using refine::testing::numbers;
using refine::testing::values;

static_assert(ranges::view_<BatchView> && ranges::view_<ExampleView>);
static_assert(ranges::random_access_range<const BatchView> && ranges::sized_range<const BatchView>);
static_assert(ranges::random_access_range<const ExampleView> && ranges::sized_range<const ExampleView>);
static_assert(std::ranges::random_access_range<BatchView> && std::ranges::random_access_range<ExampleView>);

/// Returns the indices of each batch.
std::vector<Indices> indices_of(const BatchView& batches) {
  std::vector<Indices> all;
  for (const Batch& batch : batches) all.push_back(values(batch.indices));
  return all;
}

/// Returns the indices of all batches, one after the other.
Indices joined(const BatchView& batches) {
  Indices all;
  for (const Batch& batch : batches) {
    for (const auto i : values(batch.indices)) all.push_back(i);
  }
  return all;
}

// ---- order ----

TEST(ShuffledView, FixedSeed_YieldsTheExpectedOrder) {
  // Computed by a Python program from the definition: FNV-1a and SplitMix64 of the seed,
  // mt19937_64, Fisher–Yates.
  const Dataset seven = numbered(7), nine = numbered(9);
  EXPECT_EQ(indices_of(seven | views::shuffled(666) | views::batches(3)),
            (std::vector<Indices>{{6, 2, 5}, {0, 1, 4}, {3}}));
  EXPECT_EQ(indices_of(seven | views::shuffled(666, 1) | views::batches(3)),
            (std::vector<Indices>{{5, 1, 3}, {4, 0, 6}, {2}}));
  EXPECT_EQ(indices_of(nine | views::shuffled(1) | views::batches(4)),
            (std::vector<Indices>{{7, 8, 2, 5}, {6, 4, 0, 1}, {3}}));
  EXPECT_EQ(indices_of(nine | views::shuffled(1, 3) | views::batches(4, LastBatch::join_single)),
            (std::vector<Indices>{{7, 0, 5, 6}, {4, 3, 8, 1, 2}}));
}

TEST(ShuffledView, SeedAndEpoch_AloneDetermineTheOrder) {
  const Dataset set = numbered(500);
  const auto order = [&](std::uint64_t seed, std::int64_t epoch, std::int64_t size = 128) {
    return joined(set | views::shuffled(seed, epoch) | views::batches(size));
  };
  EXPECT_EQ(order(1, 4), order(1, 4));
  EXPECT_EQ(order(1, 4), order(1, 4, 7));
  EXPECT_NE(order(1, 4), order(1, 5));
  EXPECT_NE(order(1, 4), order(2, 4));
  EXPECT_EQ(joined(set | views::batches(7)), values(at::arange(500)));
}

TEST(ShuffledView, Twice_PermutesThePermutation) {
  const Dataset set = numbered(9);
  const Indices once = joined(set | views::shuffled(1) | views::batches(9)),
                other = joined(set | views::shuffled(2) | views::batches(9));
  Indices both;
  for (const auto i : other) both.push_back(once[static_cast<std::size_t>(i)]);
  EXPECT_EQ(joined(set | views::shuffled(1) | views::shuffled(2) | views::batches(9)), both);
}

TEST(SelectedView, Positions_TakeImagesWithoutCopy) {
  const Dataset set = numbered(10);
  const auto some = set | views::selected(at::tensor(Indices{7, 2, 7, 9}));
  EXPECT_EQ(some.size(), 4);
  EXPECT_EQ(joined(some | views::batches(3)), (Indices{7, 2, 7, 9}));
  EXPECT_EQ((*some.begin()).image.data_ptr(), set.images[7].data_ptr());
  EXPECT_EQ(joined(some | views::selected(at::tensor(Indices{3, 0})) | views::batches(3)), (Indices{9, 7}));
  Indices shuffled = joined(some | views::shuffled(1) | views::batches(3));
  std::sort(shuffled.begin(), shuffled.end());
  EXPECT_EQ(shuffled, (Indices{2, 7, 7, 9}));
  EXPECT_TRUE((set | views::selected(at::tensor(Indices{})) | views::batches(3)).empty());
}

TEST(SelectedView, PositionsThatChangeLater_AreNotTheViews) {
  const auto set = numbered(4);
  const at::Tensor positions = at::tensor(Indices{2, 0});
  const auto view = set | views::selected(positions);
  positions.fill_(3);
  EXPECT_EQ(joined(view | views::batches(3)), (Indices{2, 0}));
}

TEST(SelectedView, PositionOutOfRange_Throws) {
  const Dataset set = numbered(10);
  const auto line = [&](const at::Tensor& positions) {
    return error_of([&] { set | views::selected(positions); });
  };
  expect_words(line(at::tensor(Indices{3, 10})), {"positions", "10", "0 to 9"});
  expect_words(line(at::tensor(Indices{-1})), {"positions", "-1"});
  expect_words(line(at::arange(3, at::kFloat)), {"positions", "int64"});
  EXPECT_NE(error_of([&] {
              set | views::selected(at::tensor(Indices{3})) | views::selected(at::tensor(Indices{1}));
            }),
            "");
}

// ---- batches ----

TEST(BatchView, AnySize_YieldsEveryImageOnce) {
  for (const std::int64_t n : {1, 10, 127, 128, 129, 1000}) {
    const auto batches = numbered(n).images | views::shuffled(default_seed) | views::batches(128);
    ASSERT_EQ(batches.size(), (n + 127) / 128);
    for (std::int64_t b = 0; b + 1 < batches.size(); ++b) EXPECT_EQ(batches[b].size(), 128);
    Indices all = joined(batches);
    ASSERT_EQ(static_cast<std::int64_t>(all.size()), n);
    std::sort(all.begin(), all.end());
    EXPECT_EQ(all, values(at::arange(n)));
  }
  EXPECT_TRUE((numbered(0) | views::shuffled(1) | views::batches(128)).empty());
  EXPECT_TRUE((Dataset{} | views::batches(128)).empty());
  EXPECT_TRUE((at::Tensor{} | views::batches(128)).empty());
}

TEST(BatchView, ShuffledDataset_GathersImagesAndLabelsOfItsIndices) {
  const Dataset set = numbered(10);
  for (const Batch& batch : set | views::shuffled(3) | views::batches(4)) {
    EXPECT_EQ(numbers(batch.images), values(batch.indices));
    EXPECT_EQ(values(batch.labels), values(batch.indices.remainder(3)));
    EXPECT_EQ(batch.images.scalar_type(), at::kByte);
    EXPECT_EQ(batch.images.sizes().slice(1), (Indices{3, 4, 5}));
  }
  for (const Batch& batch : set.images | views::shuffled(3) | views::batches(4)) {
    EXPECT_EQ(numbers(batch.images), values(batch.indices));
    EXPECT_FALSE(batch.labels.defined());
  }
  const TrainingSet training{set};
  EXPECT_EQ(joined(training | views::shuffled(3) | views::batches(4)),
            joined(set | views::shuffled(3) | views::batches(4)));
}

TEST(BatchView, StoredOrder_SharesThePixelsOfTheSource) {
  const Dataset set = numbered(10);
  const auto batches = set | views::batches(4);
  EXPECT_EQ(indices_of(batches), (std::vector<Indices>{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}}));
  EXPECT_EQ(batches[1].images.data_ptr(), set.images[4].data_ptr());
  EXPECT_EQ(values(batches[2].labels), (Indices{2, 0}));
}

TEST(BatchView, DropLast_LeavesOutOnlyAShortBatch) {
  const auto batches = [](std::int64_t n) { return numbered(n) | views::batches(4, LastBatch::drop); };
  EXPECT_EQ(batches(11).size(), 2);
  EXPECT_EQ(indices_of(batches(11)).size(), 2u);
  EXPECT_EQ(indices_of(batches(11)).back(), (Indices{4, 5, 6, 7}));
  EXPECT_EQ(batches(12).size(), 3);
  EXPECT_EQ(batches(12)[2].size(), 4);
  EXPECT_TRUE(batches(3).empty());
}

TEST(BatchView, JoinSingle_JoinsOnlyALastBatchOfOne) {
  const auto sizes = [](std::int64_t n, std::int64_t size) {
    Indices all;
    for (const Batch& batch : numbered(n) | views::shuffled(1) | views::batches(size, LastBatch::join_single))
      all.push_back(batch.size());
    return all;
  };
  EXPECT_EQ(sizes(9, 4), (Indices{4, 5}));
  EXPECT_EQ(sizes(10, 4), (Indices{4, 4, 2}));
  EXPECT_EQ(sizes(8, 4), (Indices{4, 4}));
  EXPECT_EQ(sizes(5, 4), (Indices{5}));
  EXPECT_EQ(sizes(1, 4), (Indices{1})) << "no batch before it";
  EXPECT_EQ(sizes(3, 1), (Indices{1, 1, 1})) << "every batch is full";
}

TEST(BatchView, SizeBelowOne_Throws) {
  expect_words(error_of([] { numbered(3) | views::batches(0); }), {"batch size", "0"});
  expect_words(error_of([] { numbered(3).images | views::batches(-2); }), {"batch size", "-2"});
}

// ---- with other ranges ----

TEST(BatchView, RangeAdaptors_Compose) {
  const Dataset set = numbered(10);
  std::size_t expected = 0;
  for (const auto& [step, batch] :
       ranges::views::enumerate(set | views::shuffled(1) | views::batches(4) | ranges::views::take(2))) {
    EXPECT_EQ(step, expected++);
    EXPECT_EQ(batch.size(), 4);
  }
  EXPECT_EQ(expected, 2u);
  for (const auto& [a, b] :
       ranges::views::zip(set | views::batches(5), set.images | views::shuffled(2) | views::batches(5))) {
    EXPECT_EQ(a.size(), b.size());
  }
  std::int64_t first = 0;
  for (const Batch& batch : set | views::batches(3) | std::views::take(2)) first += batch.size();
  EXPECT_EQ(first, 6);
}

TEST(ExampleView, Iteration_YieldsImageAndLabelOfEachIndex) {
  const Dataset set = numbered(10);
  Indices seen;
  for (const Example& example : set | views::shuffled(5)) {
    seen.push_back(example.index);
    EXPECT_EQ(example.image[2][3][4].item<std::int64_t>(), example.index);
    EXPECT_EQ(example.label.item<std::int64_t>(), example.index % 3);
  }
  EXPECT_EQ(seen, joined(set | views::shuffled(5) | views::batches(4)));
  const auto is_even = [](const Example& example) { return example.index % 2 == 0; };
  EXPECT_EQ(ranges::distance(ExampleView(set.images) | ranges::views::filter(is_even)), 5);
}

}  // namespace
}  // namespace refine::data
