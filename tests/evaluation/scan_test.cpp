#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <refine/evaluation/scan.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/trigger.hpp>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "tests/evaluation/two_bytes.hpp"
#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;
using testing::two_bytes;
using testing::TwoBytes;

/// Makes the victim answer 1 for every image, by writing its first byte.
struct FirstByteOne {
  ImageShape image{1, 1, 2};
  at::Tensor apply(const at::Tensor& images) const {
    at::Tensor stamped = images.clone();
    stamped.select(3, 0).fill_(1 / 255.0);
    return stamped;
  }
};

// Victim 0 0 1 2, defended 0 1 1 2. The trigger changes the victim's answers to 1 and not the
// defense's.
const at::Tensor four_images = two_bytes({0, 0, 1, 2}, {0, 1, 1, 2});
const std::vector<NamedTrigger> two = {{"first byte 1", FirstByteOne{}},
                                       {"nothing", triggers::None<>{.image = {1, 1, 2}}}};

TEST(Scan, FourImages_AreCountedAsByHand) {
  const auto entries = scan(TwoBytes{}, four_images, two);
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].trigger, "first byte 1");
  EXPECT_EQ(entries[0].images(), 4);
  // Class 1, over the three images to which the victim gives another class: all of them with the
  // trigger.
  EXPECT_EQ(entries[0].before[1], (metrics::Lift{.cls = 1, .with_trigger = 3, .gained = 3, .n = 3}));
  EXPECT_EQ(entries[0].before[0], (metrics::Lift{.cls = 0, .n = 2}));
  // The defense gives the second image class 1 with and without the trigger.
  EXPECT_EQ(entries[0].after[1], (metrics::Lift{.cls = 1, .with_trigger = 1, .without_trigger = 1, .n = 3}));
  EXPECT_EQ(entries[1].trigger, "nothing");
  for (const auto& lift : entries[1].before) EXPECT_EQ(lift.value(), 0);
  EXPECT_EQ(entries[1].after, entries[0].after);
}

TEST(Scan, CleanImages_AreClassifiedOnce) {
  const TwoBytes defense;
  scan(defense, four_images, two);
  EXPECT_EQ(*defense.seen, 4 * (1 + 2));
}

TEST(Scan, ImagesOrTriggersThatDoNotFit_AreRefused) {
  expect_words(error_of([] {
                 scan(TwoBytes{}, at::zeros({1, 1, 2, 2}, at::kByte), two);
               }),
               {"images", "got 1x2x2", "expected 1x1x2"});
  const std::vector<NamedTrigger> wide = {{"wide", triggers::None<>{.image = {1, 1, 3}}}};
  expect_words(error_of([&] { scan(TwoBytes{}, four_images, wide); }), {"1x1x3", "1x1x2"});
}

TEST(ScanCatalogue, Triggers_ChangeImagesAndHaveUniqueNames) {
  for (const ImageShape& image : {ImageShape{3, 32, 32}, ImageShape{1, 28, 20}}) {
    const at::Tensor images = at::rand({2, image.channels, image.height, image.width}),
                     before = images.clone();
    const auto catalogue = scan_catalogue(image);
    EXPECT_EQ(catalogue.size(), 14u);
    std::set<std::string> names;
    for (const auto& [name, trigger, local] : catalogue) {
      EXPECT_TRUE(names.insert(name).second) << name;
      EXPECT_EQ(trigger.image, image) << name;
      EXPECT_EQ(local, name.find("checkerboard") == 0 || name.find("square") != std::string::npos) << name;
      const at::Tensor stamped = trigger.apply(images);
      EXPECT_TRUE(at::equal(images, before)) << name;
      EXPECT_EQ(stamped.sizes(), images.sizes()) << name;
      EXPECT_FALSE(at::equal(stamped, images)) << name;
      EXPECT_TRUE(at::equal(stamped, trigger.apply(images))) << name;
      EXPECT_GE(stamped.min().item<float>(), 0) << name;
      EXPECT_LE(stamped.max().item<float>(), 1) << name;
    }
    EXPECT_TRUE(names.contains("checkerboard 3×3, bottom right"));
    EXPECT_TRUE(names.contains("rotation, −16°"));
  }
}

TEST(ScanCatalogue, SmallAndLargeImages_GetFittingTriggers) {
  EXPECT_EQ(scan_catalogue({3, 5, 4}).size(), 13u);  // too small for the larger patch
  EXPECT_EQ(scan_catalogue({3, 3, 3}).size(), 11u);  // and for a warp
  EXPECT_EQ(scan_catalogue({3, 224, 224})[0].name, "checkerboard 20×20, bottom right");
  expect_words(error_of([] { scan_catalogue({3, 2, 2}); }), {"does not fit"});
  expect_words(error_of([] { scan_catalogue({}); }), {"?x?x?"});
}

/// Classifies images by their brightness, and as 3 if BadNets' checkerboard is in the bottom right
/// corner. The defense does not look at that corner.
struct Backdoored {
  Task task() const { return {ImageShape{3, 16, 16}, 4}; }
  at::Device device() const { return at::kCPU; }
  at::Tensor undefended(const at::Tensor& images) const {
    const at::Tensor corner = images.slice(2, 13).slice(3, 13);
    const at::Tensor triggered =
        (corner - triggers::patterns::checkerboard({3, 3, 3})).abs().amax({1, 2, 3}).lt(0.01);
    return at::one_hot(at::where(triggered, at::full_like(triggered, 3, at::kLong), brightness(images)), 4)
        .to(at::kFloat);
  }
  at::Tensor forward(const at::Tensor& images) const {
    return at::one_hot(brightness(images), 4).to(at::kFloat);
  }
  at::Tensor transformed(const at::Tensor& images) const { return images; }
  at::Tensor alarm(const at::Tensor& images) const { return images.select(1, 0).flatten(1).select(1, 0); }

 private:
  static at::Tensor brightness(const at::Tensor& images) {
    return (images.slice(2, 2, 11).slice(3, 2, 11).mean({1, 2, 3}) * 3).floor().clamp(0, 2).to(at::kLong);
  }
};

TEST(Scan, BadNetsCheckerboard_IsFoundWithoutLabels) {
  const at::Tensor images =
      (at::arange(0, 240, 4).view({60, 1, 1, 1}) * at::ones({1, 3, 16, 16})).clamp(0, 255).to(at::kByte);
  const auto entries = scan(Backdoored{}, images);
  ASSERT_EQ(entries.size(), 14u);
  for (const auto& entry : entries) {
    const metrics::Lift before = metrics::max_lift_by_share(entry.before),
                        after = metrics::max_lift_by_share(entry.after);
    // The larger checkerboard contains the smaller one.
    const bool planted = entry.trigger == "checkerboard 3×3, bottom right" ||
                         entry.trigger == "checkerboard 6×6, bottom right";
    EXPECT_EQ(before.cls == 3 && before.value() == 1, planted) << entry.trigger;
    EXPECT_LT(after.value(), 0.2) << entry.trigger;
  }
}

TEST(AnyTrigger, Copies_ApplyTheTriggerTheyHold) {
  const triggers::Blend<> blend{.image = {3, 4, 4}, .opacity = 0.3};
  const triggers::AnyTrigger any = blend;
  triggers::AnyTrigger copy = any;
  const at::Tensor images = at::rand({2, 3, 4, 4});
  EXPECT_EQ(any.image, blend.image);
  EXPECT_TRUE(at::equal(any.apply(images), blend.apply(images)));
  EXPECT_TRUE(at::equal(copy.apply(images), blend.apply(images)));
  copy = triggers::None<>{.image = {3, 4, 4}};
  EXPECT_TRUE(at::equal(copy.apply(images), images));
  EXPECT_TRUE(at::equal(any.apply(images), blend.apply(images)));
}

}  // namespace
}  // namespace refine
