// The probe, against classifiers whose fault is known: hand-written ones, and TorchScript files as
// PyTorch makes them (tests/fixtures/make_program_files.py).

#include <gtest/gtest.h>
#include <torch/nn/cloneable.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/defend/probe.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/programs/torchscript.hpp>

#include "tests/defend/noise.hpp"
#include "tests/support/error_of.hpp"

#include "tests/defend/readme_example.inc"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;

/// A classifier that is a function of its images and of a buffer.
struct Function {
  struct Module : torch::nn::Cloneable<Module> {
    Module() { reset(); }
    void reset() override { state = register_buffer("state", at::zeros({1})); }
    at::Tensor state;
  };

  using Forward = std::function<at::Tensor(const at::Tensor& images, at::Tensor& state)>;

  Task task = {{3, 8, 8}, 10};
  Forward function = {};
  std::shared_ptr<Module> module = std::make_shared<Module>();

  at::Tensor forward(const at::Tensor& images) const { return function(images, module->state); }
};

/// The class whose centre is nearest to a number an image.
at::Tensor nearest(const at::Tensor& numbers, double low, double high, double sharpness) {
  const at::Tensor centres = at::linspace(low, high, 10);
  return -sharpness * (numbers.view({-1, 1}) - centres).square();
}

/// Dark images of one colour: red from 0 to 127, in no order, green and blue constant. \pre 7 does
/// not divide n
at::Tensor reds(std::int64_t n, std::int64_t side = 8) {
  at::Tensor images = at::empty({n, 3, side, side}, at::kByte);
  images.fill_(20);
  for (std::int64_t i = 0; i < n; ++i) {
    const double share =
        static_cast<double>(i * 7 % n) / static_cast<double>(std::max<std::int64_t>(n - 1, 1));
    images[i][0].fill_(std::round(127 * share));
  }
  return images;
}

Probe probe_of(Function::Forward function, const at::Tensor& images = reds(24),
               const ProbeOptions& options = {}) {
  return probe(Function{.function = std::move(function)}, images, options);
}

Probe probe_file(const std::string& name, const at::Tensor& images) {
  return probe(backbones::Scripted<>{"tests/fixtures/programs/" + name + ".pt", {.task = {{3, 4, 4}, 5}}},
               images);
}

bool has(const Probe& found, ProbeProblem problem) {
  for (const ProbeFinding& finding : found.findings) {
    if (finding.problem == problem) return true;
  }
  return false;
}

at::Tensor red(const at::Tensor& x) {
  return x.select(1, 0).mean(at::IntArrayRef{1, 2});
}

// 100 images of 32 columns. The first 20 are red on the left, the next 20 on the right, the others all over.
TEST(MirrorAgreement, SideOfAColour_IsDifferentInTheMirror) {
  at::Tensor images = at::zeros({100, 3, 8, 32}, at::kByte);
  images.slice(0, 0, 20).select(1, 0).slice(2, 0, 16).fill_(200);
  images.slice(0, 20, 40).select(1, 0).slice(2, 16, 32).fill_(200);
  images.slice(0, 40, 100).select(1, 0).fill_(200);
  const auto ask = [&](Function::Forward function) {
    return mirror_agreement(
        backbones::AnyBackbone(Function{.task = {{3, 8, 32}, 3}, .function = std::move(function)}), images);
  };
  // Class 0: more red on the left; 1: on the right; 2: as much.
  const MirrorAgreement sides = ask([](const at::Tensor& x, at::Tensor&) {
    const at::Tensor mean = x.select(1, 0).mean(1);
    const at::Tensor left = mean.slice(1, 0, 16).mean(1), right = mean.slice(1, 16, 32).mean(1);
    return at::stack({left - right, right - left, at::full_like(left, 0.3)}, 1);
  });
  EXPECT_EQ(sides.mirrored, (metrics::Proportion{60, 100}));
  EXPECT_EQ(sides.shifted, (metrics::Proportion{100, 100}));
  EXPECT_TRUE(sides.is_mirror_different());
  const MirrorAgreement symmetric = ask([](const at::Tensor& x, at::Tensor&) {
    const at::Tensor amount = x.select(1, 0).mean(at::IntArrayRef{1, 2});
    return at::stack({amount, 0.6 - amount, at::full_like(amount, -1)}, 1);
  });
  EXPECT_EQ(symmetric.mirrored, (metrics::Proportion{100, 100}));
  EXPECT_FALSE(symmetric.is_mirror_different());
  // As unsure under a shift as in the mirror: nothing is said about mirrors.
  EXPECT_FALSE((MirrorAgreement{{60, 100}, {62, 100}}).is_mirror_different());
  EXPECT_FALSE((MirrorAgreement{{93, 100}, {97, 100}}).is_mirror_different());
}

TEST(AnswersOf, HandWorkedLogits_GivesTheirConfidenceAndInformation) {
  const Answers sure = answers_of(100 * at::eye(4));
  EXPECT_NEAR(sure.confidence, 1, 1e-9);
  EXPECT_EQ(sure.classes_named, 4);
  EXPECT_NEAR(sure.favourite_share, 0.25, 1e-9);
  EXPECT_NEAR(sure.information, 1, 1e-9);

  const Answers unsure = answers_of(at::zeros({4, 4}));
  EXPECT_NEAR(unsure.confidence, 0.25, 1e-9);
  EXPECT_NEAR(unsure.information, 0, 1e-9);

  // Two images each of two classes of four: log 2 of log 4.
  const at::Tensor half = 100 * at::eye(4).index_select(0, at::tensor({2, 2, 3, 3}));
  EXPECT_NEAR(answers_of(half).information, 0.5, 1e-9);
  EXPECT_EQ(answers_of(half).favourite, 2);
}

TEST(Probe, SoundClassifier_HasNoFindings) {
  const Probe found =
      probe_of([](const at::Tensor& x, at::Tensor&) { return nearest(red(x), 0, 0.5, 3000); });
  EXPECT_TRUE(found.findings.empty());
  EXPECT_TRUE(found.not_finite.empty());
  EXPECT_FALSE(found.blank_not_finite);
  EXPECT_FALSE(found.looks_wrong());
  EXPECT_TRUE(found.tried.empty()) << "nothing else is tried";
  EXPECT_EQ(found.answers.classes_named, 10);
  check_probe(found, "m");
  expect_words(found.describe(), {"names 10 of 10 classes", "16 images"});
}

TEST(Probe, SoundTorchScriptFile_HasNoFindings) {
  for (const char* name :
       {"no_grad", "detached", "helper_changing", "half_cast", "buffers", "autocast", "on_cuda"}) {
    const Probe found = probe_file(name, noise(24));
    EXPECT_TRUE(found.findings.empty()) << name << ": " << found.findings.front().text;
  }
}

TEST(Probe, ActiveNoise_IsRandom) {
  for (const Probe& found :
       {probe_file("noise", noise(24)), probe_of([](const at::Tensor&x, at::Tensor&calls) {
          calls += 1;
          return nearest(red(x), 0, 0.5, 3000) + calls * x.sum() * 1e-2 * nearest(red(x), 0, 1, 1);
        })}) {
    EXPECT_TRUE(has(found, ProbeProblem::random));
    expect_words(error_of([&] { check_probe(found, "m.pt"); }), {"m.pt", "dropout or noise", "model.eval()"});
  }
}

TEST(Probe, BatchStatistics_IsBatchDependent) {
  for (const Probe& found :
       {probe_file("training_mode", noise(24)), probe_of([](const at::Tensor&x, at::Tensor&) {
          return nearest(red(x) - red(x).mean() + 0.25, 0, 0.5, 3000);
        })}) {
    EXPECT_TRUE(has(found, ProbeProblem::batch_dependent));
    expect_words(error_of([&] { check_probe(found, "m.pt"); }), {"m.pt", "other images", "model.eval()"});
  }
}

TEST(Probe, FileForOneBatchSize_Fails) {
  const Probe found = probe_of([](const at::Tensor& x, at::Tensor&) {
    TORCH_CHECK(x.size(0) <= 16, "shape '[16, 192]' is invalid");
    return nearest(red(x), 0, 0.5, 3000);
  });
  EXPECT_TRUE(has(found, ProbeProblem::fails));
  expect_words(error_of([&] { check_probe(found, "m.pt"); }), {"16 images", "not 64", "one batch size"});
  // One that folds the images of a batch into each other, as windows with a fixed batch do.
  const Probe rows = probe_of([](const at::Tensor& x, at::Tensor&) {
    const at::Tensor y = nearest(red(x), 0, 0.5, 3000);
    return y.size(0) > 16 ? y.narrow(0, 0, 16) : y;
  });
  EXPECT_TRUE(has(rows, ProbeProblem::fails));
}

TEST(Probe, ClassifierThatCounts_ChangesItself) {
  const Probe found = probe_of([](const at::Tensor& x, at::Tensor& calls) {
    calls += 1;
    return nearest(red(x), 0, 0.5, 3000);
  });
  EXPECT_TRUE(has(found, ProbeProblem::changes_itself));
  expect_words(error_of([&] { check_probe(found, "m.pt"); }), {"change when it answers"});
}

TEST(Probe, NoGradient_IsRefused) {
  for (const Probe& found : {
           probe_file("rounded", noise(24)),
           probe_of([](const at::Tensor&x, at::Tensor&) { return nearest(red(x).detach(), 0, 0.5, 3000); }),
           probe_of([](const at::Tensor&x, at::Tensor&) {  // the square root's slope at 0
             return nearest((red(x) - red(x)).sqrt() + red(x), 0, 0.5, 3000);
           }),
       }) {
    EXPECT_TRUE(has(found, ProbeProblem::no_gradient));
    EXPECT_FALSE(has(found, ProbeProblem::constant));
    expect_words(error_of([&] { check_probe(found, "m.pt"); }), {"m.pt", "gradient", "differentiable"});
  }
}

TEST(Probe, ConstantAnswer_IsRefused) {
  const Probe found =
      probe_of([](const at::Tensor& x, at::Tensor&) { return nearest(red(x) * 0 + 0.1, 0, 0.5, 3000); });
  EXPECT_TRUE(has(found, ProbeProblem::constant));
  expect_words(error_of([&] { check_probe(found, "m.pt"); }), {"same for 16 different images"});
}

TEST(Probe, OneImageManyTimes_IsNamedAsTheReason) {
  const at::Tensor image = reds(24).narrow(0, 5, 1);
  const Probe found = probe_of([](const at::Tensor& x, at::Tensor&) { return nearest(red(x), 0, 0.5, 3000); },
                               image.repeat({20, 1, 1, 1}));
  EXPECT_TRUE(has(found, ProbeProblem::constant));
  expect_words(error_of([&] { check_probe(found, "m.pt"); }), {"16 clean images", "identical"});
}

TEST(Probe, BlankImageWithoutFiniteLogits_IsFound) {
  const Probe clean = probe_file("standardised", noise(24));
  EXPECT_TRUE(clean.findings.empty());
  EXPECT_TRUE(clean.blank_not_finite);
  EXPECT_TRUE(clean.not_finite.empty());

  at::Tensor images = noise(40);
  for (int i : {2, 35}) images[i].fill_(77);
  const Probe found = probe_file("standardised", images);
  EXPECT_TRUE(found.findings.empty()) << found.findings.front().text;
  EXPECT_EQ(found.not_finite, (std::vector<std::int64_t>{2}));
  const backbones::AnyBackbone victim(
      backbones::Scripted<>{"tests/fixtures/programs/standardised.pt", {.task = {{3, 4, 4}, 5}}});
  EXPECT_EQ(images_without_finite_logits(victim, images), (std::vector<std::int64_t>{2, 35}));

  const Probe none = probe_of([](const at::Tensor& x, at::Tensor&) {
    return nearest(red(x), 0, 0.5, 1) * std::numeric_limits<double>::quiet_NaN();
  });
  EXPECT_TRUE(has(none, ProbeProblem::not_finite));
}

TEST(Probe, ForgottenNormalisation_IsNamed) {
  struct Wanted {
    Normalization by;
    const char* options;
  };
  for (const auto& [by, options] :
       {Wanted{{{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}}, "--mean 0.5 --std 0.5"},
        Wanted{normalizations::imagenet, "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"},
        Wanted{{{0, 0, 0}, {1 / 255., 1 / 255., 1 / 255.}}, "--mean 0 --std 0.003921569"}}) {
    const double low = (0 - by.mean[0]) / by.deviation[0], high = (0.5 - by.mean[0]) / by.deviation[0];
    const Function bare{.function = [=](const at::Tensor& x, at::Tensor&) {
      return nearest(red(x), low, high, 3000 / ((high - low) * (high - low)));
    }};
    const Probe found = probe(bare, reds(48));
    EXPECT_TRUE(found.looks_wrong());
    ASSERT_TRUE(found.better) << found.describe();
    EXPECT_EQ(found.better->options, options);
    expect_words(found.describe({"c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"}),
                 {"'c", "% of 16 images", options});
    if (found.is_surely_wrong()) {
      expect_words(error_of([&] { check_probe(found, "m.pt"); }), {"m.pt", options, "--no_probe"});
    }
    const Probe right = probe(backbones::Normalized{bare, by}, reds(48));
    EXPECT_FALSE(right.looks_wrong()) << right.describe();
  }
}

TEST(Probe, DoubledNormalisation_IsNamed) {
  const Function plain{
      .function = [](const at::Tensor& x, at::Tensor&) { return nearest(red(x), 0, 0.5, 3000); }};
  const Probe found = probe(backbones::Normalized{plain, {{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}}}, reds(48));
  ASSERT_TRUE(found.better);
  EXPECT_EQ(found.better->options, "without --mean and --std");
}

TEST(Probe, ReversedChannels_AreNamed) {
  const Function blue{.function = [](const at::Tensor& x, at::Tensor&) {
    return nearest(x.select(1, 2).mean(at::IntArrayRef{1, 2}), 0, 0.5, 3000);
  }};
  const Probe found = probe(blue, reds(48));
  ASSERT_TRUE(found.better);
  EXPECT_TRUE(found.better->bgr);
  expect_words(found.better->options, {"--bgr"});
  EXPECT_FALSE(probe(backbones::Bgr{blue}, reds(48)).looks_wrong());
}

TEST(Probe, WrongSize_IsNamed) {
  // A sum instead of a mean: right at 8×8 alone.
  const Function sums{.task = {{3, 32, 32}, 10}, .function = [](const at::Tensor& x, at::Tensor&) {
                        return nearest(x.select(1, 0).sum(at::IntArrayRef{1, 2}) / 64, 0, 0.5, 3000);
                      }};
  const ProbeOptions options{.sizes = {{3, 8, 8}, {3, 16, 16}, {3, 64, 64}}};
  const Probe found = probe(sums, reds(48, 32), options);
  ASSERT_TRUE(found.better);
  EXPECT_EQ(found.better->image, (ImageShape{3, 8, 8}));
  EXPECT_EQ(found.better->options, "--image 8");
  EXPECT_TRUE(probe(sums, reds(48, 32), {.sizes = options.sizes, .sweep = false}).tried.empty());
}

TEST(ProbeSizes, SizesThatAreRefusedOrTakeTooLong_AreLeftOutOrEmpty) {
  const Function small{.function = [](const at::Tensor& x, at::Tensor&) {
    TORCH_CHECK(x.size(2) != 16, "cannot be multiplied");
    return nearest(red(x), 0, 0.5, 3000);
  }};
  const backbones::AnyBackbone victim(small);
  const auto images_at = [](const ImageShape& shape) { return reds(48, shape.height); };
  const std::vector<ProbeSetting> all = probe_sizes(victim, {{3, 32, 32}, {3, 16, 16}, {3, 8, 8}}, images_at);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].options, "--image 8");
  EXPECT_EQ(all[1].options, "--image 32");
  EXPECT_EQ(all[1].answers.images, 16);
  const std::vector<ProbeSetting> none = probe_sizes(victim, {{3, 8, 8}}, images_at, -1);
  ASSERT_EQ(none.size(), 1u);
  EXPECT_EQ(none[0].answers.images, 0);
}

TEST(Probe, UnsureClassifier_HasNoBetterSetting) {
  const Probe found =
      probe_of([](const at::Tensor& x, at::Tensor&) { return nearest(red(x), 0, 0.5, 1e-3); }, reds(48));
  EXPECT_TRUE(found.looks_wrong());
  EXPECT_FALSE(found.better);
  EXPECT_FALSE(found.tried.empty());
  check_probe(found, "m");
}

TEST(Probe, ImagesOfAnotherShape_AreRefused) {
  const Function any{.function = [](const at::Tensor& x, at::Tensor&) { return nearest(red(x), 0, 1, 1); }};
  expect_words(error_of([&] { probe(any, reds(4, 16)); }), {"3x8x8", "3x16x16"});
  expect_words(error_of([&] { probe(any, reds(4).narrow(0, 0, 0)); }), {"at least 1"});
  EXPECT_EQ(probe(any, reds(1)).answers.images, 1) << "one image is enough";
}

TEST(Probe, ReadmeExample_RefusesAndReports) {
  std::ostringstream log;
  const at::Tensor images = noise(2, 224);
  examine("tests/fixtures/programs/plain.pt", images, log);
  expect_words(log.str(), {"of 5 classes", "of 2 images"});
  expect_words(error_of([&] { examine("tests/fixtures/programs/rounded.pt", images, log); }),
               {"rounded.pt", "gradient"});
}

}  // namespace
}  // namespace refine
