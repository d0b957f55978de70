#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <refine/data/dataset.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/data/numbered.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::data {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::numbered;
using refine::testing::numbers;
using refine::testing::values;

TEST(Dataset, SizeImageTask_DescribeTheImages) {
  const auto set = numbered(7);
  EXPECT_EQ(set.size(), 7);
  EXPECT_EQ(set.image_shape(), (ImageShape{3, 4, 5}));
  EXPECT_EQ(set.task(), (Task{{3, 4, 5}, 3}));
  EXPECT_EQ(Dataset{}.size(), 0);
  EXPECT_EQ(Dataset{}.image_shape(), ImageShape{});
  set.validate();
}

TEST(Dataset, SelectAndFirst_KeepLabelsWithTheirImages) {
  const auto part = numbered(7).select(at::tensor(std::vector<std::int64_t>{5, 0, 5}));
  EXPECT_EQ(numbers(part), (std::vector<std::int64_t>{5, 0, 5}));
  EXPECT_EQ(values(part.labels), (std::vector<std::int64_t>{2, 0, 2}));
  EXPECT_EQ(numbers(numbered(7).first(2)), (std::vector<std::int64_t>{0, 1}));
}

TEST(Dataset, Sample_DrawsWithoutReplacementAndReproducibly) {
  const auto set = numbered(200);
  const auto once = numbers(set.sample(50, 1));
  EXPECT_EQ(once.size(), 50u);
  EXPECT_TRUE(std::adjacent_find(once.begin(), once.end(), std::greater_equal<>()) == once.end());
  EXPECT_EQ(numbers(set.sample(50, 1)), once);
  EXPECT_NE(numbers(set.sample(50, 2)), once);
  EXPECT_EQ(numbers(set.sample(200, 3)), numbers(set));
  EXPECT_EQ(set.sample(0, 3).size(), 0);
}

TEST(Dataset, Sample_DrawsEachImageEquallyOften) {
  const auto set = numbered(10);
  std::vector<int> drawn(10);
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    for (const auto i : numbers(set.sample(3, seed))) ++drawn[static_cast<std::size_t>(i)];
  }
  for (const int count : drawn) EXPECT_NEAR(count, 600, 5 * std::sqrt(2000 * 0.3 * 0.7));
}

TEST(Dataset, InvalidFieldsOrCounts_Throw) {
  const auto set = numbered(4);
  expect_words(error_of([&] { set.first(5); }), {"5 images", "has 4"});
  expect_words(error_of([&] { set.sample(-1, 0); }), {"-1 images"});
  expect_words(error_of([&] {
                 Dataset{set.images.to(at::kFloat), set.labels, set.classes}.validate();
               }),
               {"images", "bytes"});
  expect_words(error_of([&] {
                 Dataset{set.images, set.labels.to(at::kInt), set.classes}.validate();
               }),
               {"labels", "int64"});
  expect_words(error_of([&] {
                 Dataset{set.images, set.labels.slice(0, 1), set.classes}.validate();
               }),
               {"4 images but 3 labels"});
  expect_words(error_of([&] {
                 Dataset{set.images.to(at::kMeta), set.labels, set.classes}.validate();
               }),
               {"on the host", "got meta and cpu"});
  expect_words(error_of([&] {
                 Dataset{set.images, set.labels.to(at::kMeta), set.classes}.validate();
               }),
               {"on the host", "got cpu and meta"});
  expect_words(error_of([&] {
                 Dataset{set.images, set.labels, {"a", "b"}}.validate();
               }),
               {"labels", "0 to 2", "2 classes"});
  expect_words(error_of([&] {
                 Dataset{set.images, set.labels.sub(1), set.classes}.validate();
               }),
               {"labels", "got -1 to 1", "3 classes"});
}

TEST(EvenlySpread, SomeOfTheImages_AreOfTheirWholeOrder) {
  const at::Tensor images = at::arange(10).to(at::kByte).view({10, 1, 1, 1});
  EXPECT_TRUE(at::equal(evenly_spread(images, 4).flatten(), at::tensor({0, 2, 5, 7}).to(at::kByte)));
  EXPECT_TRUE(evenly_spread(images, 10).is_same(images));
  EXPECT_TRUE(evenly_spread(images, 99).is_same(images));
  EXPECT_EQ(evenly_spread(images, 0).size(0), 0);
}

TEST(Split, StructuredBinding_YieldsTrainAndTest) {
  const auto [train, test] = Split{numbered(3), numbered(2)};
  EXPECT_EQ(train.size(), 3);
  EXPECT_EQ(test.size(), 2);
}

TEST(ToFloat, Bytes_AreDividedBy255) {
  const auto bytes = at::arange(256).to(at::kByte).view({1, 1, 16, 16});
  const auto floats = to_float(bytes);
  ASSERT_EQ(floats.scalar_type(), at::kFloat);
  for (int v = 0; v < 256; ++v) EXPECT_EQ(floats.view({-1})[v].item<float>(), static_cast<float>(v) / 255.0f);
  EXPECT_TRUE(to_bytes(floats).equal(bytes));
  EXPECT_TRUE(to_float(bytes.expand({2, 3, 16, 16}).contiguous(at::MemoryFormat::ChannelsLast))
                  .is_contiguous(at::MemoryFormat::ChannelsLast));
}

TEST(ToBytes, Floats_AreClampedAndRounded) {
  const auto images =
      at::tensor(std::vector<float>{-1.0f, 0.4f / 255, 0.6f / 255, 254.4f / 255, 254.6f / 255, 7.0f});
  const auto before = images.clone();
  EXPECT_EQ(values(to_bytes(images)), (std::vector<std::int64_t>{0, 0, 1, 254, 255, 255}));
  EXPECT_TRUE(images.equal(before));
}

}  // namespace
}  // namespace refine::data
