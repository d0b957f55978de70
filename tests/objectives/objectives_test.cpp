#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <refine/objectives/objectives.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace refine::objectives {
namespace {

// What may be an objective: any copyable function object from two tensors to one.
struct CrossEntropyBySoftLabels {
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    return at::cross_entropy_loss(remapped, at::softmax(teacher, 1));
  }
};
static_assert(Objective<CrossEntropyBySoftLabels>);
static_assert(Objective<Bce> && Objective<Nll> && Objective<Distillation>);
static_assert(Objective<at::Tensor (*)(const at::Tensor&, const at::Tensor&)>);
static_assert(Objective<decltype([](const at::Tensor& a, const at::Tensor& b) { return (a - b).sum(); })>);

// And what may not.
struct ReturnsNumber {
  double operator()(const at::Tensor&, const at::Tensor&) const;
};
struct ReturnsNothing {
  void operator()(const at::Tensor&, const at::Tensor&) const;
};
struct TakesLogitsOnly {
  at::Tensor operator()(const at::Tensor&) const;
};
struct Mutable {
  at::Tensor operator()(const at::Tensor&, const at::Tensor&);
};
struct NotCopyable : Nll {
  NotCopyable(const NotCopyable&) = delete;
};
struct NotCallable {
  at::Tensor loss(const at::Tensor&, const at::Tensor&) const;
};
static_assert(!Objective<ReturnsNumber> && !Objective<ReturnsNothing> && !Objective<TakesLogitsOnly>);
static_assert(!Objective<Mutable> && !Objective<NotCopyable> && !Objective<NotCallable>);
static_assert(!Objective<int> && !Objective<at::Tensor>);
static_assert(!Objective<SupCon>, "its call has the same form, but takes features and labels");

using Rows = std::vector<std::vector<double>>;

at::Tensor tensor_of(const Rows& rows) {
  std::vector<double> flat;
  for (const auto& row : rows) flat.insert(flat.end(), row.begin(), row.end());
  return at::tensor(flat).view({static_cast<std::int64_t>(rows.size()), -1});
}

std::vector<double> softmax(const std::vector<double>& logits, double temperature = 1) {
  double sum = 0;
  std::vector<double> p;
  for (const double x : logits) sum += std::exp(x / temperature);
  for (const double x : logits) p.push_back(std::exp(x / temperature) / sum);
  return p;
}

std::size_t argmax(const std::vector<double>& row) {
  return static_cast<std::size_t>(std::ranges::max_element(row) - row.begin());
}

const Rows remapped = {{0.3, -1.2, 2.0, 0.1}, {4.0, 0.0, -3.0, 1.0}, {-0.5, -0.4, -0.6, -0.3}};
const Rows teacher = {{1.0, 3.0, 0.5, -1.0}, {2.5, 0.2, 0.1, 2.4}, {0.0, -2.0, 5.0, 1.0}};

TEST(Bce, Value_MatchesDefinition) {
  double sum = 0;
  for (std::size_t i = 0; i < remapped.size(); ++i) {
    const auto p = softmax(remapped[i]);
    for (std::size_t c = 0; c < p.size(); ++c)
      sum -= c == argmax(teacher[i]) ? std::log(p[c]) : std::log(1 - p[c]);
  }
  EXPECT_NEAR(Bce{}(tensor_of(remapped), tensor_of(teacher)).item<double>(), sum / 12, 1e-12);
}

TEST(Bce, ZeroProbability_ClampsLogarithmAtMinus100) {
  // The softmax is exactly (1, 0) and the teacher names the second class: −log 0 twice, which
  // PyTorch clamps to 100 each.
  const at::Tensor sure = at::tensor(std::vector<double>{2000, 0}).view({1, 2}).set_requires_grad(true);
  const at::Tensor other = at::tensor(std::vector<double>{0, 1}).view({1, 2});
  const at::Tensor loss = Bce{}(sure, other);
  EXPECT_EQ(loss.item<double>(), 100);
  loss.backward();
  EXPECT_TRUE(sure.grad().isfinite().all().item<bool>());
}

TEST(Bce, NanLogits_GiveNanWithoutAbort) {
  const at::Tensor broken = at::tensor(std::vector<double>{std::nan(""), 0}).view({1, 2});
  EXPECT_TRUE(std::isnan(Bce{}(broken, at::tensor(std::vector<double>{0, 1}).view({1, 2})).item<double>()));
}

TEST(Nll, Value_MatchesDefinition) {
  double sum = 0;
  for (std::size_t i = 0; i < remapped.size(); ++i) sum -= std::log(softmax(remapped[i])[argmax(teacher[i])]);
  EXPECT_NEAR(Nll{}(tensor_of(remapped), tensor_of(teacher)).item<double>(), sum / 3, 1e-12);
}

TEST(Distillation, Value_MatchesDefinition) {
  for (const double t : {1.0, 4.0}) {
    double sum = 0;
    for (std::size_t i = 0; i < remapped.size(); ++i) {
      const auto p = softmax(teacher[i], t), q = softmax(remapped[i], t);
      for (std::size_t c = 0; c < p.size(); ++c) sum += p[c] * std::log(p[c] / q[c]);
    }
    const Distillation distillation{.temperature = t};
    EXPECT_NEAR(distillation(tensor_of(remapped), tensor_of(teacher)).item<double>(), sum / 3 * t * t, 1e-12)
        << t;
    EXPECT_NEAR(distillation(tensor_of(teacher), tensor_of(teacher)).item<double>(), 0, 1e-12);
  }
}

/// The gradient of an objective with respect to the remapped logits.
template <Objective O>
at::Tensor gradient_of(const O& objective, const Rows& logits, const Rows& answers) {
  const at::Tensor x = tensor_of(logits).set_requires_grad(true);
  objective(x, tensor_of(answers)).backward();
  return x.grad();
}

// Two images and two classes. With logits (a, b) the softmax is (q, 1 − q), where q = 1 / (1 + e^(b
// − a)).
//
//   image 0: remapped (0, ln 3) → q = 1/4; teacher (ln 4, 0) → p = 4/5, so the teacher's class is 0
//   image 1: remapped (0, 0)    → q = 1/2; teacher (0, ln 9) → p = 1/10, so the teacher's class is
//   1
const Rows two_remapped = {{0, std::log(3.0)}, {0, 0}},
           two_teacher = {{std::log(4.0), 0}, {0, std::log(9.0)}};

TEST(Nll, TwoClassGradient_IsWorkedOutByHand) {
  // Per image (softmax − one-hot) / N: (1/4 − 1, 3/4) / 2 and (1/2, 1/2 − 1) / 2.
  EXPECT_TRUE(gradient_of(Nll{}, two_remapped, two_teacher)
                  .allclose(tensor_of({{-0.375, 0.375}, {0.25, -0.25}}), 0, 1e-12));
}

TEST(Bce, TwoClassGradient_IsWorkedOutByHand) {
  // With two classes, both entries of an image have the same cross-entropy −log q of the teacher's
  // class. The mean over N·classes is then that of Nll over N, and so is the gradient.
  EXPECT_TRUE(gradient_of(Bce{}, two_remapped, two_teacher)
                  .allclose(tensor_of({{-0.375, 0.375}, {0.25, -0.25}}), 0, 1e-12));
}

TEST(Distillation, TwoClassGradient_IsWorkedOutByHand) {
  // Per image (q − p) / N: (1/4 − 4/5) / 2 and (1/2 − 1/10) / 2.
  EXPECT_TRUE(gradient_of(Distillation{}, two_remapped, two_teacher)
                  .allclose(tensor_of({{-0.275, 0.275}, {0.2, -0.2}}), 0, 1e-12));
  // At temperature 2, T²·(q' − p') / (T·N) = q' − p' with N = 2: e^(ln 3 / 2) = √3, so q' = 1 / (1
  // + √3), and likewise p' = 2 / 3 for √4, q' = 1 / 2, p' = 1 / 4 for √9.
  const double first = 1 / (1 + std::sqrt(3.0)) - 2.0 / 3, second = 1.0 / 2 - 1.0 / 4;
  EXPECT_TRUE(gradient_of(Distillation{.temperature = 2}, two_remapped, two_teacher)
                  .allclose(tensor_of({{first, -first}, {second, -second}}), 0, 1e-12));
}

TEST(Objective, UserDefined_TwoClassGradientIsWorkedOutByHand) {
  // Cross-entropy differs from distillation by the teacher's entropy, which has no gradient.
  EXPECT_TRUE(gradient_of(CrossEntropyBySoftLabels{}, two_remapped, two_teacher)
                  .allclose(tensor_of({{-0.275, 0.275}, {0.2, -0.2}}), 0, 1e-12));
}

/// Khosla et al., equation 2, over 2N rows as printed: −1/|P(i)| · Σ_p log(e^{s_ip} / Σ_{a≠i}
/// e^{s_ia}).
at::Tensor supcon_of_two_views(const at::Tensor& features, const at::Tensor& labels, double temperature) {
  const at::Tensor one = features.flatten(1);
  const at::Tensor rows = at::cat({one, one});
  const at::Tensor classes = at::cat({labels, labels});
  const at::Tensor unit = rows / (rows * rows).sum(1, true).sqrt();
  const at::Tensor s = unit.matmul(unit.t()) / temperature;
  const at::Tensor others = 1 - at::eye(s.size(0), s.options());
  const at::Tensor positives = classes.unsqueeze(0).eq(classes.unsqueeze(1)).to(at::kDouble) * others;
  const at::Tensor log_share = s - (s.exp() * others).sum(1, true).log();
  return ((-positives * log_share).sum(1) / positives.sum(1)).mean();
}

TEST(SupCon, ValueAndGradient_MatchDefinitionOverTwoIdenticalViews) {
  for (const auto& classes :
       {std::vector<std::int64_t>{0, 1, 0, 2, 2, 2, 5}, {0, 0, 0, 0, 0, 0, 0}, {6, 5, 4, 3, 2, 1, 0}}) {
    const at::Tensor labels = at::tensor(classes);
    const at::Tensor start = at::randn({7, 2, 3, 2}, at::kDouble);
    const at::Tensor ours = start.clone().set_requires_grad(true),
                     defined = start.clone().set_requires_grad(true);
    const at::Tensor loss = SupCon{}(ours, labels), expected = supcon_of_two_views(defined, labels, 0.07);
    EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-8 * std::abs(expected.item<double>()));
    loss.backward();
    expected.backward();
    const double scale = defined.grad().abs().max().item<double>();
    EXPECT_LE((ours.grad() - defined.grad()).abs().max().item<double>(), 1e-8 * scale);
  }
}

TEST(SupCon, OneImage_GivesZero) {
  // Its other view is its only positive and its whole denominator.
  EXPECT_NEAR(
      SupCon{}(at::randn({1, 4}, at::kDouble), at::tensor(std::vector<std::int64_t>{3})).item<double>(), 0,
      1e-12);
}

TEST(SupCon, ScaledOrZeroFeatures_KeepValueAndFiniteGradient) {
  const at::Tensor labels = at::tensor(std::vector<std::int64_t>{0, 1, 0, 1});
  const at::Tensor features = at::randn({4, 5}, at::kDouble);
  const double loss = SupCon{}(features, labels).item<double>();
  EXPECT_NEAR(SupCon{}(features * 1000, labels).item<double>(), loss, 1e-9 * std::abs(loss));
  const at::Tensor black = (features * 0).detach().set_requires_grad(true);
  const at::Tensor of_black = SupCon{}(black, labels);
  of_black.backward();
  EXPECT_TRUE(std::isfinite(of_black.item<double>()));
  EXPECT_TRUE(black.grad().isfinite().all().item<bool>());
}

TEST(SupCon, BaseTemperature_ScalesValue) {
  const at::Tensor labels = at::tensor(std::vector<std::int64_t>{0, 1, 0});
  const at::Tensor features = at::randn({3, 5}, at::kDouble);
  const double expected = supcon_of_two_views(features, labels, 0.5).item<double>() * (0.5 / 0.1);
  EXPECT_NEAR((SupCon{.temperature = 0.5, .base_temperature = 0.1}(features, labels).item<double>()),
              expected, 1e-9);
}

TEST(SupCon, SmallTemperatureInSinglePrecision_StaysFinite) {
  const at::Tensor features = at::randn({6, 8});
  const at::Tensor labels = at::tensor(std::vector<std::int64_t>{0, 1, 2, 0, 1, 2});
  EXPECT_TRUE(std::isfinite(SupCon{.temperature = 0.005}(features, labels).item<double>()));
}

}  // namespace
}  // namespace refine::objectives
