#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <refine/data/batches.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/detail/pixels.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::data {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

/// Image i is filled with i, and has label i % 3.
Dataset numbered(std::int64_t n) {
  return {.images = at::arange(n).to(at::kByte).view({n, 1, 1, 1}).expand({n, 3, 4, 5}).contiguous(),
          .labels = at::arange(n).remainder(3),
          .classes = {"a", "b", "c"}};
}

std::vector<std::int64_t> values(const at::Tensor& t) {
  const auto longs = t.to(at::kLong).contiguous();
  return {longs.const_data_ptr<std::int64_t>(), longs.const_data_ptr<std::int64_t>() + longs.numel()};
}

std::vector<std::int64_t> numbers(const Dataset& set) {
  return values(set.images.select(1, 0).select(1, 0).select(1, 0));
}

TEST(Dataset, TellsItsSizeShapeAndTask) {
  const auto set = numbered(7);
  EXPECT_EQ(set.size(), 7);
  EXPECT_EQ(set.image(), (ImageShape{3, 4, 5}));
  EXPECT_EQ(set.task(), (Task{{3, 4, 5}, 3}));
  EXPECT_EQ(Dataset{}.size(), 0);
  EXPECT_EQ(Dataset{}.image(), ImageShape{});
  set.validate();
}

TEST(Dataset, SelectsImagesWithTheirLabels) {
  const auto part = numbered(7).select(at::tensor(std::vector<std::int64_t>{5, 0, 5}));
  EXPECT_EQ(numbers(part), (std::vector<std::int64_t>{5, 0, 5}));
  EXPECT_EQ(values(part.labels), (std::vector<std::int64_t>{2, 0, 2}));
  EXPECT_EQ(numbers(numbered(7).first(2)), (std::vector<std::int64_t>{0, 1}));
}

TEST(Dataset, SamplesWithoutReplacementAndReproducibly) {
  const auto set = numbered(200);
  const auto once = numbers(set.sample(50, 1));
  EXPECT_EQ(once.size(), 50u);
  EXPECT_TRUE(std::adjacent_find(once.begin(), once.end(), std::greater_equal<>()) == once.end());
  EXPECT_EQ(numbers(set.sample(50, 1)), once);
  EXPECT_NE(numbers(set.sample(50, 2)), once);
  EXPECT_EQ(numbers(set.sample(200, 3)), numbers(set));
  EXPECT_EQ(set.sample(0, 3).size(), 0);
}

TEST(Dataset, EachImageIsSampledEquallyOften) {
  const auto set = numbered(10);
  std::vector<int> drawn(10);
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    for (const auto i : numbers(set.sample(3, seed))) ++drawn[static_cast<std::size_t>(i)];
  }
  for (const int count : drawn) EXPECT_NEAR(count, 600, 5 * std::sqrt(2000 * 0.3 * 0.7));
}

TEST(Dataset, RefusesWhatDoesNotFit) {
  const auto set = numbered(4);
  expect_words(error_of([&] { set.first(5); }), {"5 images", "has 4"});
  expect_words(error_of([&] { set.sample(-1, 0); }), {"-1 images"});
  expect_words(error_of([&] {
                 Dataset{set.images.to(at::kFloat), set.labels, set.classes}.validate();
               }),
               {"bytes"});
  expect_words(error_of([&] {
                 Dataset{set.images, set.labels.to(at::kInt), set.classes}.validate();
               }),
               {"int64"});
  expect_words(error_of([&] {
                 Dataset{set.images, set.labels.slice(0, 1), set.classes}.validate();
               }),
               {"4 images but 3 labels"});
  expect_words(error_of([&] {
                 Dataset{set.images, set.labels, {"a", "b"}}.validate();
               }),
               {"0 to 2", "2 classes"});
}

TEST(Split, Unpacks) {
  const auto [train, test] = Split{numbered(3), numbered(2)};
  EXPECT_EQ(train.size(), 3);
  EXPECT_EQ(test.size(), 2);
}

TEST(Pixels, AreTheBytesOver255) {
  const auto bytes = at::arange(256).to(at::kByte).view({1, 1, 16, 16});
  const auto floats = to_float(bytes);
  ASSERT_EQ(floats.scalar_type(), at::kFloat);
  for (int v = 0; v < 256; ++v) EXPECT_EQ(floats.view({-1})[v].item<float>(), static_cast<float>(v) / 255.0f);
  EXPECT_TRUE(to_bytes(floats).equal(bytes));
  EXPECT_TRUE(to_float(bytes.expand({2, 3, 16, 16}).contiguous(at::MemoryFormat::ChannelsLast))
                  .is_contiguous(at::MemoryFormat::ChannelsLast));
}

TEST(Pixels, AreRoundedAndClamped) {
  const auto images =
      at::tensor(std::vector<float>{-1.0f, 0.4f / 255, 0.6f / 255, 254.4f / 255, 254.6f / 255, 7.0f});
  const auto before = images.clone();
  EXPECT_EQ(values(to_bytes(images)), (std::vector<std::int64_t>{0, 0, 1, 254, 255, 255}));
  EXPECT_TRUE(images.equal(before));
}

TEST(Batches, HaveEveryImageOnce) {
  for (const std::int64_t n : {1, 10, 127, 128, 129, 1000}) {
    const auto cut = Batches{.size = 128}(n, 0);
    ASSERT_EQ(static_cast<std::int64_t>(cut.size()), (Batches{.size = 128}.count(n)));
    for (std::size_t b = 0; b + 1 < cut.size(); ++b) EXPECT_EQ(cut[b].size(0), 128);
    auto all = values(at::cat(cut));
    std::sort(all.begin(), all.end());
    EXPECT_EQ(all, values(at::arange(n)));
  }
  EXPECT_TRUE(Batches{}(0, 0).empty());
}

TEST(Batches, DependOnSeedAndEpochAlone) {
  const auto order = [](const Batches& batches, std::int64_t epoch) {
    return values(at::cat(batches(500, epoch)));
  };
  EXPECT_EQ(order({.seed = 1}, 4), order({.seed = 1}, 4));
  EXPECT_EQ(order({.seed = 1}, 4), order({.size = 7, .seed = 1}, 4));
  EXPECT_NE(order({.seed = 1}, 4), order({.seed = 1}, 5));
  EXPECT_NE(order({.seed = 1}, 4), order({.seed = 2}, 4));
  EXPECT_EQ(order({.shuffle = false}, 4), values(at::arange(500)));
}

TEST(Batches, DropTheLastOnlyWhenItIsShort) {
  const Batches batches{.size = 4, .drop_last = true};
  EXPECT_EQ(batches.count(11), 2);
  EXPECT_EQ(batches(11, 0).size(), 2u);
  EXPECT_EQ(batches(12, 0).size(), 3u);
  EXPECT_TRUE(batches(3, 0).empty());
  expect_words(error_of([] { Batches{.size = 0}(3, 0); }), {"batches of 0"});
}

}  // namespace
}  // namespace refine::data
