#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <tests/attacks/images.hpp>

#include <cmath>
#include <concepts>
#include <limits>
#include <refine/attacks/pgd.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/sources.hpp>
#include <refine/formats/safetensors.hpp>
#include <string>
#include <vector>
#include "tests/support/error_of.hpp"
#include "tests/support/file_permissions.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::attacks {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

at::Tensor bytes(std::int64_t n) {
  return at::randint(0, 256, {n, 3, 4, 4}).to(at::kByte);
}

/// A classifier with logits w·x and 0: the sign of the gradient never changes.
struct Linear {
  at::Tensor weights = at::randn({3 * 4 * 4});

  at::Tensor forward(const at::Tensor& images) const {
    const at::Tensor score = images.flatten(1).matmul(weights.view({-1, 1})).squeeze(1);
    return at::stack({score, score * 0}, 1);
  }
  /// Returns the images with each byte moved by `distance` in the direction that lowers the logit of the
  /// true class.
  at::Tensor move(const at::Tensor& images, const at::Tensor& labels, int distance) const {
    const at::Tensor away =
        (labels * 2 - 1).view({-1, 1, 1, 1}) * weights.view({1, 3, 4, 4}).sign().to(at::kLong);
    return (images.to(at::kLong) + away * distance).clamp(0, 255).to(at::kByte);
  }
};

TEST(Pgd, LinearModel_EqualsTheClosedForm) {
  const at::Tensor images = bytes(7), labels = at::randint(0, 2, {7}, at::kLong);
  Linear model;
  model.weights[5] = 0;  // a pixel without weight stays unchanged
  // 100 steps of 1.5 reach the boundary of the ball; three steps of 1 do not.
  const Pgd pgd{.model = model, .batch_size = 3};
  EXPECT_TRUE(pgd(images, labels).equal(model.move(images, labels, 8)));
  EXPECT_TRUE((Pgd{.model = model, .step = 1. / 255, .steps = 3}(images, labels)
                   .equal(model.move(images, labels, 3))));
  EXPECT_TRUE((Pgd{.model = model, .epsilon = 0}(images, labels).equal(images)));
  // 4.6 of 255 is rounded to 5.
  EXPECT_TRUE((Pgd{.model = model, .step = 4.6 / 255, .steps = 1}(images, labels)
                   .equal(model.move(images, labels, 5))));
  const Linear everywhere;
  EXPECT_TRUE((Pgd{.model = everywhere, .random_start = true}(images, labels)
                   .equal(everywhere.move(images, labels, 8))));
  EXPECT_EQ(pgd(images.narrow(0, 0, 0), labels.narrow(0, 0, 0)).size(0), 0);
}

TEST(Pgd, RandomStart_IsUniformInTheBall) {
  const at::Tensor images = at::full({4, 3, 4, 4}, 100, at::kByte), labels = at::zeros({4}, at::kLong);
  const auto started = [&](std::uint64_t seed, std::int64_t batch) {
    return Pgd{.model = Linear{.weights = at::full({48}, 1.0)},
               .step = 1e-9,
               .steps = 1,
               .batch_size = batch,
               .random_start = true,
               .seed = seed}(images, labels);
  };
  const at::Tensor displacement = started(1, 4).to(at::kInt) - 100;
  EXPECT_EQ(displacement.abs().max().item<int>(), 8);
  EXPECT_NEAR(displacement.to(at::kDouble).mean().item<double>(), 0, 5 * 8 / std::sqrt(3. * 192));
  EXPECT_TRUE(started(1, 3).equal(started(1, 4))) << "the result depends on the batch size";
  EXPECT_FALSE(started(2, 4).equal(started(1, 4)));
}

TEST(Pgd, Backbone_LossRisesWithinTheBall) {
  const data::Dataset set = data::Synthetic{.task = small, .train = 20, .test = 0}.make().train;
  const backbones::ResNet18<small> net{.width = 4};
  net.module->train();
  const auto state = [&] { return net.forward(data::to_float(set.images)); };
  const at::Tensor changed = Pgd{.model = net, .steps = 10, .batch_size = 8}(set.images, set.labels);
  EXPECT_FALSE(net.module->is_training());
  const at::Tensor before = state();
  EXPECT_TRUE((Pgd{.model = net, .steps = 10, .batch_size = 8}(set.images, set.labels).equal(changed)));
  EXPECT_TRUE(state().equal(before)) << "the model was changed";
  for (const auto& weight : net.module->parameters()) EXPECT_FALSE(weight.grad().defined());
  EXPECT_LE((changed.to(at::kInt) - set.images.to(at::kInt)).abs().max().item<int>(), 8);
  const auto loss = [&](const at::Tensor& images) {
    return at::cross_entropy_loss(net.forward(data::to_float(images)), set.labels, {}, at::Reduction::None);
  };
  EXPECT_TRUE(loss(changed).gt(loss(set.images)).all().item<bool>()) << "not for each image";
  EXPECT_EQ((Pgd{.model = freeze(net), .steps = 1}(set.images, set.labels)).sizes(), set.images.sizes());
}

TEST(Pgd, Store_IsReusedIfNothingChanged) {
  const ScratchFolder scratch;
  const auto store = scratch.path / "new" / "perturbed.safetensors";
  const at::Tensor images = bytes(5), labels = at::zeros({5}, at::kLong);
  int calls = 0;
  const auto run = [&](const at::Tensor& weights, auto&&... change) {
    const Linear linear{.weights = weights};
    Pgd pgd{.model = [linear, &calls](const at::Tensor& x) { return ++calls, linear.forward(x); },
            .steps = 4,
            .store = store};
    (change(pgd), ...);
    calls = 0;
    const at::Tensor changed = pgd(images, labels);
    pgd.store.clear();
    const int needed = calls;
    EXPECT_TRUE(changed.equal(pgd(images, labels)));
    return needed;
  };
  const at::Tensor weights = at::randn({48}), others = weights.add(0.1);
  EXPECT_EQ(run(weights), 5);
  EXPECT_EQ(run(weights), 1) << "one call compares the model";
  EXPECT_EQ(run(others), 5);
  EXPECT_EQ(run(others), 1);
  EXPECT_EQ(run(others, [](Pgd& pgd) { pgd.epsilon = 2. / 255; }), 5);
  EXPECT_EQ(run(others, [](Pgd& pgd) { pgd.step = 2. / 255; }), 5);
  EXPECT_EQ(run(others, [](Pgd& pgd) { pgd.random_start = true; }), 5);
  EXPECT_EQ(run(others, [](Pgd& pgd) { pgd.random_start = true, pgd.seed = 1; }), 5);
  EXPECT_EQ(run(others, [](Pgd& pgd) { pgd.random_start = true, pgd.seed = 1; }), 1);
  Pgd other_images{
      .model = Linear{.weights = others}, .steps = 4, .random_start = true, .seed = 1, .store = store};
  const at::Tensor fresh = bytes(5);
  EXPECT_LE((other_images(fresh, labels).to(at::kInt) - fresh.to(at::kInt)).abs().max().item<int>(), 8);
}

TEST(Pgd, DamagedOrForeignStore_ThrowsBeforeTheWork) {
  const ScratchFolder scratch;
  const at::Tensor images = bytes(2), labels = at::zeros({2}, at::kLong);
  const auto line = [&](const std::filesystem::path& store) {
    int calls = 0;
    const Linear linear;
    const Pgd pgd{.model = [&](const at::Tensor& x) { return ++calls, linear.forward(x); }, .store = store};
    const std::string message = error_of([&] { pgd(images, labels); });
    EXPECT_EQ(calls, 1);
    return message;
  };
  const auto good = scratch.path / "good";
  Pgd{.model = Linear{}, .steps = 1, .store = good}(images, labels);
  const std::string whole = refine::testing::content(good);
  expect_words(line(scratch.write("cut", whole.substr(0, whole.size() - 9))),
               {"cut", "damaged", "delete it"});
  expect_words(line(scratch.write("empty", "")), {"not a store of perturbed images"});
  formats::write_safetensors(scratch.path / "other", {.tensors = {{"images", images}}});
  expect_words(line(scratch.path / "other"), {"not a store of perturbed images"});
  expect_words(line(scratch.write("file", "") / "below"), {"cannot write"});
  std::string bit = whole;  // one bit of one pixel, which the format does not check; the logits are last
  bit[whole.size() - 2 * 2 * sizeof(float) - images.nbytes()] ^= 1;
  const auto store = scratch.write("bit", bit);
  expect_words(error_of([&] { Pgd{.model = Linear{}, .steps = 1, .store = store}(images, labels); }),
               {"bit", "damaged", "delete it"});
  std::filesystem::create_directory(scratch.path / "folder");
  expect_words(line(scratch.path / "folder"), {"cannot read", "folder"});
  EXPECT_EQ(refine::testing::content(scratch.path / "other").empty(), false)
      << "a foreign file was overwritten";
}

TEST(Pgd, StoreWithoutPermission_ThrowsBeforeTheWork) {
  const ScratchFolder scratch;
  const at::Tensor images = bytes(2), labels = at::zeros({2}, at::kLong);
  const auto store = scratch.path / "locked" / "store";
  Pgd{.model = Linear{}, .steps = 1, .store = store}(images, labels);
  std::filesystem::permissions(store.parent_path(),
                               std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  int calls = 0;
  const Linear linear;
  const Pgd pgd{
      .model = [&](const at::Tensor& x) { return ++calls, linear.forward(x); }, .steps = 2, .store = store};
  const auto refusal = [&] {
    const refine::testing::FilePermissionsHold hold;
    return error_of([&] { pgd(images, labels); });
  };
  expect_words(refusal(), {"cannot write", "store"});
  EXPECT_EQ(calls, 1);
  std::filesystem::permissions(store, std::filesystem::perms::none);
  expect_words(refusal(), {"cannot read", "store"});
  std::filesystem::permissions(store.parent_path(), std::filesystem::perms::owner_all);
}

TEST(Pgd, LogitsOrGradientNotFinite_Throws) {
  const at::Tensor images = bytes(20), labels = at::zeros({20}, at::kLong);
  const auto line = [&](const Surrogate& model, std::int64_t batch) {
    return error_of([&] { Pgd{.model = model, .steps = 2, .batch_size = batch}(images, labels); });
  };
  const Linear linear;
  for (const double bad_value : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    Linear broken;
    broken.weights[7] = bad_value;
    expect_words(line(broken, 128), {"not finite", "did not diverge"});
    // In the last batch only.
    int calls = 0;
    const auto later = [&](const at::Tensor& x) {
      return linear.forward(x) * (++calls == 6 ? bad_value : 1);
    };
    expect_words(line(later, 8), {"not finite"});
  }
  // The logits are finite, their gradient is not: the square root at 0.
  expect_words(line([](const at::Tensor& x) { return (x - x).sqrt().flatten(1); }, 128),
               {"gradient", "not finite"});
}

TEST(Pgd, ImagesOrLabelsOfAnotherType_Throws) {
  const at::Tensor images = bytes(4), labels = at::zeros({4}, at::kLong);
  const Pgd pgd{.model = Linear{}, .steps = 1};
  EXPECT_EQ(error_of([&] { pgd(images, labels); }), "");
  for (const at::Tensor& bad : {data::to_float(images), images[0], at::Tensor()})
    expect_words(error_of([&] { pgd(bad, labels); }), {"uint8", "data::to_bytes"});
  for (const at::Tensor& bad :
       {labels.to(at::kInt), labels.narrow(0, 0, 3), labels.view({4, 1}), at::Tensor()})
    expect_words(error_of([&] { pgd(images, bad); }), {"labels", "int64", "4 images"});
  expect_words(error_of([&] { pgd(images, labels - 100); }), {"labels", "got -100", "count classes from 0"});
}

TEST(Pgd, ModelForImagesOfAnotherShape_Throws) {
  const at::Tensor images = bytes(2), labels = at::zeros({2}, at::kLong);
  expect_words(
      error_of([&] { Pgd{.model = backbones::ResNet18<small>{.width = 4}}(images, labels); }),
      {"Pgd.model: wrong image shape", "got 3x4x4", "expected 3x16x16", "trained on images of that shape"});
  // A model without a task.
  const Linear wide{.weights = at::randn({75})};
  expect_words(error_of([&] { Pgd{.model = wide}(images, labels); }),
               {"the attacker's model fails on the images"});
  EXPECT_EQ(Surrogate(wide).task(), dynamic_task);
  EXPECT_EQ(Surrogate().task(), dynamic_task);
  EXPECT_EQ(Surrogate(backbones::ResNet18<small>{.width = 4}).task(), small);
}

TEST(Pgd, InvalidModelOrField_Throws) {
  const at::Tensor images = bytes(2), labels = at::full({2}, 2, at::kLong);
  expect_words(error_of([&] { Pgd{}(images, labels); }), {"Pgd.model", "not set"});
  expect_words(error_of([&] { Pgd{.model = Linear{}}(images, labels); }), {"no logit of class 2"});
  expect_words(error_of([&] {
                 Pgd{.model = [](const at::Tensor& x) { return x.detach().flatten(1); }}(images, labels);
               }),
               {"no gradient"});
  const at::Tensor weights = at::randn({48, 3}).requires_grad_(true);
  expect_words(error_of([&] {
                 Pgd{.model = [&](const at::Tensor& x) { return x.detach().flatten(1).matmul(weights); }}(
                     images, labels);
               }),
               {"no gradient"});
  const auto line = [](auto change) {
    Pgd pgd{.model = Linear{}};
    change(pgd);
    return error_of([&] { pgd.check(); });
  };
  EXPECT_EQ(line([](Pgd&) {}), "");
  expect_words(line([](Pgd& p) { p.epsilon = -0.1; }), {"epsilon", "got -0.1"});
  expect_words(line([](Pgd& p) { p.epsilon = std::numeric_limits<double>::quiet_NaN(); }),
               {"epsilon", "got nan"});
  expect_words(line([](Pgd& p) { p.step = 0; }), {"Pgd.step ", "got 0"});
  expect_words(line([](Pgd& p) { p.steps = 0; }), {"Pgd.steps", "got 0"});
  expect_words(line([](Pgd& p) { p.batch_size = 0; }), {"batch_size", "got 0"});
}

static_assert(std::convertible_to<backbones::ResNet18<small>, Surrogate>);
static_assert(!std::convertible_to<int, Surrogate>);

TEST(UniversalPerturbation, LinearModel_EqualsTheClosedForm) {
  // Within (0, 1), the sign of the gradient is that of the weights, for any images.
  const at::Tensor images = at::randint(60, 190, {9, 3, 4, 4}).to(at::kByte);
  Linear model;
  model.weights[5] = 0;
  const at::Tensor sign = model.weights.view({3, 4, 4}).sign();
  const auto change = [&](UniversalPerturbation attack) {
    attack.model = model;
    return attack(images);
  };
  EXPECT_TRUE(change({.target = 0}).allclose(sign * 8 / 255));
  EXPECT_TRUE(change({.target = 1}).allclose(sign * -8 / 255));
  EXPECT_TRUE(change({.step = 0.01, .steps = 2, .batch_size = 4}).allclose(sign * 0.02));
  EXPECT_TRUE(change({.epsilon = 0}).equal(at::zeros({3, 4, 4})));
}

TEST(UniversalPerturbation, SaturatedPixels_AreLeftToTheOtherImages) {
  // The first pixel is white in every image, the second in one of two.
  at::Tensor images = at::full({2, 3, 4, 4}, 100, at::kByte);
  images.flatten(1).select(1, 0).fill_(255);
  images.flatten(1)[0][1] = 255;
  const at::Tensor change = UniversalPerturbation{.model = Linear{.weights = at::full({48}, 0.01)},
                                                  .target = 0,
                                                  .epsilon = 0.05,
                                                  .step = 0.02,
                                                  .steps = 4,
                                                  .batch_size = 2}(images);
  // The first step is taken from the unchanged image, in which white is not yet beyond the limit.
  EXPECT_NEAR(change.flatten()[0].item<double>(), 0.02, 1e-6);
  EXPECT_NEAR(change.flatten()[1].item<double>(), 0.05, 1e-6);
  EXPECT_NEAR(change.flatten()[2].item<double>(), 0.05, 1e-6);
}

TEST(UniversalPerturbation, BadModelImagesOrField_Throws) {
  const at::Tensor images = bytes(4);
  const auto line = [&](auto change, const at::Tensor& on) {
    UniversalPerturbation attack{.model = Linear{}, .steps = 1};
    change(attack);
    return error_of([&] { attack(on); });
  };
  using Attack = UniversalPerturbation;
  EXPECT_EQ(line([](Attack&) {}, images), "");
  expect_words(line([](Attack& a) { a.model = {}; }, images), {"UniversalPerturbation.model", "not set"});
  expect_words(line([](Attack& a) { a.target = 2; }, images), {"no logit of class 2"});
  expect_words(line([](Attack& a) { a.target = -1; }, images), {"target", "got -1"});
  expect_words(line([](Attack& a) { a.epsilon = 2; }, images), {"epsilon", "got 2"});
  expect_words(line([](Attack& a) { a.step = std::nan(""); }, images), {"step", "got nan"});
  expect_words(line([](Attack& a) { a.steps = 0; }, images), {"steps", "got 0"});
  expect_words(line([](Attack& a) { a.batch_size = 0; }, images), {"batch_size", "got 0"});
  expect_words(line([](Attack&) {}, images.narrow(0, 0, 0)), {"at least one image"});
  expect_words(line([](Attack&) {}, data::to_float(images)), {"uint8", "data::to_bytes"});
  expect_words(line([](Attack& a) { a.model = backbones::ResNet18<small>{.width = 4}; }, images),
               {"UniversalPerturbation.model: wrong image shape", "got 3x4x4"});
  expect_words(
      line([](Attack& a) { a.model = [](const at::Tensor& x) { return x.flatten(1) / 0; }; }, images),
      {"UniversalPerturbation.model", "not finite"});
  expect_words(
      line([](Attack& a) { a.model = [](const at::Tensor& x) { return x.detach().flatten(1); }; }, images),
      {"no gradient"});
}

}  // namespace
}  // namespace refine::attacks
