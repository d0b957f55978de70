#include <refine/report/sample_sheet.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine::report {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

/// A defense of images of one grey byte. The victim predicts the byte as the class, of three. The
/// transform subtracts one, and the defended model predicts the rest.
struct OneLess {
  Task task() const { return {ImageShape{1, 1, 1}, 3}; }
  at::Device device() const { return at::kCPU; }
  at::Tensor undefended(const at::Tensor& images) const {
    return at::one_hot((images * 255).round().to(at::kLong).flatten(), 3).to(at::kFloat);
  }
  at::Tensor transformed(const at::Tensor& images) const { return (images - 1 / 255.0).clamp(0, 1); }
  at::Tensor forward(const at::Tensor& images) const { return undefended(transformed(images)); }
  at::Tensor alarm(const at::Tensor& images) const { return images.flatten(); }
};
static_assert(DefendedClassifier<OneLess>);

at::Tensor images(const std::vector<int>& bytes) {
  return at::tensor(bytes).to(at::kByte).view({-1, 1, 1, 1});
}

/// An attack whose trigger sets every byte to two.
struct SetToTwo {
  std::optional<int> target = 2;
  attacks::Poisoned poison(const data::Dataset& clean) const { return {clean, {}}; }
  at::Tensor trigger_images(const at::Tensor& images) const { return images.clone().fill_(2); }
};

const data::Dataset four{.images = images({1, 0, 1, 2}),
                         .labels = at::tensor(std::vector<std::int64_t>{1, 1, 0, 2}),
                         .classes = {"a", "b", "c"}};

using Bytes = std::vector<std::vector<std::uint8_t>>;
using Texts = std::vector<std::string>;

TEST(SampleSheet, Attack_ShowsOneImageOfEachOtherClass) {
  const ImageSheet sheet = sample_sheet(OneLess{}, four, SetToTwo{});
  EXPECT_EQ(sheet.columns, (Texts{"clean", "triggered", "clean, transformed", "triggered, transformed"}));
  ASSERT_EQ(sheet.rows.size(), 2u);  // the third image, of class a, and the first, of class b
  EXPECT_EQ(sheet.rows[0].images, (Bytes{{1}, {2}, {0}, {1}}));
  EXPECT_EQ(sheet.rows[0].captions, (Texts{"victim: b", "victim: c", "defense: a", "defense: b"}));
  EXPECT_EQ(sheet.rows[1].images, (Bytes{{1}, {2}, {0}, {1}}));
  check_complete(sheet);
  EXPECT_EQ(sample_sheet(OneLess{}, four, SetToTwo{}, 1).rows.size(), 1u);
  EXPECT_EQ(sample_sheet(OneLess{}, four, SetToTwo{.target = std::nullopt}).rows.size(), 3u);
  EXPECT_TRUE(sample_sheet(OneLess{}, four.first(0), SetToTwo{}).rows.empty());
}

TEST(SampleSheet, TargetOfOneClass_ShowsThatClassFirst) {
  // Images of class b are wanted as c: first an image of b, then of a, and none of c.
  const metrics::Target target = metrics::Target::of_classes({{}, 2, 2});
  const ImageSheet sheet = sample_sheet(OneLess{}, four, images({0, 1, 2, 2}), target);
  ASSERT_EQ(sheet.rows.size(), 2u);
  EXPECT_EQ(sheet.rows[0].images, (Bytes{{1}, {0}, {0}, {0}}));
  EXPECT_EQ(sheet.rows[1].images, (Bytes{{1}, {2}, {0}, {1}}));
}

TEST(SampleSheet, TriggeredImages_ReplaceTheAttack) {
  const ImageSheet sheet = sample_sheet(OneLess{}, four, images({0, 1, 2, 2}), 0);
  ASSERT_EQ(sheet.rows.size(), 2u);  // the first image, of class b, and the last, of class c
  EXPECT_EQ(sheet.rows[0].images, (Bytes{{1}, {0}, {0}, {0}}));
  EXPECT_EQ(sheet.rows[1].images, (Bytes{{2}, {2}, {1}, {1}}));
  expect_words(error_of([] { sample_sheet(OneLess{}, four, images({0}), 0); }), {"1 triggered images for 4"});
}

TEST(SampleSheet, CleanImages_NeedNoLabelsOrTrigger) {
  const ImageSheet sheet = sample_sheet(OneLess{}, images({2, 2, 1, 1}), {}, 2);  // not the first two
  EXPECT_EQ(sheet.columns, (Texts{"clean", "clean, transformed"}));
  ASSERT_EQ(sheet.rows.size(), 2u);
  EXPECT_EQ(sheet.rows[0].images, (Bytes{{2}, {1}}));
  EXPECT_EQ(sheet.rows[0].captions, (Texts{"victim: class 2", "defense: class 1"}));
  expect_words(error_of([] {
                 sample_sheet(OneLess{}, at::zeros({2, 1, 2, 2}, at::kByte), {});
               }),
               {"got 1x2x2", "expected 1x1x1"});
}

}  // namespace
}  // namespace refine::report
