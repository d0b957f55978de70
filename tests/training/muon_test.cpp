#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <refine/training/detail/muon_step.hpp>
#include <refine/training/muon.hpp>

#include <cmath>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/fixtures/pytorch.hpp"

namespace refine {
namespace {

using refine::testing::pytorch;

/// The largest difference, over three steps, from the values of torch.optim.Muon.
double max_difference(const std::string& name, MuonOptions options, double scale = 1) {
  at::Tensor p = pytorch().at("muon." + name + ".start").clone();
  Muon muon({p}, options.lr(0.05));
  double largest = 0;
  for (int i = 0; i < 3; ++i) {
    const std::string step = std::to_string(i);
    p.mutable_grad() = pytorch().at("muon." + name + ".grad" + step).clone();
    const at::Tensor before = p.clone();
    muon.step();
    if (scale != 1) p.copy_(before * (1 - 0.05 * 0.1) + (p - before * (1 - 0.05 * 0.1)) * scale);
    largest =
        std::max(largest, (p - pytorch().at("muon." + name + ".after" + step)).abs().max().item<double>());
  }
  return largest;
}

MuonOptions recipe_options() {
  return MuonOptions().momentum(0.9).weight_decay(0.1);
}

TEST(Muon, Steps_MatchPyTorch) {
  constexpr double tolerance = 1e-3;  // bfloat16 has three digits, a step's entries are about 0.02
  for (const char* name : {"tall", "wide", "square"}) {
    EXPECT_LT(max_difference(name, recipe_options()), tolerance) << name;
    EXPECT_LT(max_difference(name, recipe_options().ns_dtype(at::kFloat)), 2 * tolerance) << name;
    // Mistakes that the tolerance must reveal.
    EXPECT_GT(max_difference(name, recipe_options().nesterov(false)), 2 * tolerance) << name;
    EXPECT_GT(max_difference(name, recipe_options().weight_decay(0)), 2 * tolerance) << name;
    EXPECT_GT(max_difference(name, recipe_options().momentum(0.95)), 2 * tolerance) << name;
    EXPECT_GT(max_difference(name, recipe_options().momentum(0)), 2 * tolerance) << name;
    EXPECT_GT(max_difference(name, recipe_options().ns_steps(4)), 2 * tolerance) << name;
  }
  EXPECT_GT(max_difference("tall", recipe_options(), 1 / std::sqrt(24.0 / 6)),
            2 * tolerance);  // without √(rows/columns)
}

TEST(NewtonSchulz, SingularValues_ComeNearOne) {
  for (const auto& shape : {std::vector<std::int64_t>{32, 8}, {8, 32}, {16, 16}}) {
    const at::Tensor matrix = at::randn(shape) * 100;
    const at::Tensor values = at::linalg_svdvals(detail::newton_schulz(matrix, 5, 1e-7));
    // The smallest singular value of a square random matrix may be arbitrarily near 0.
    EXPECT_LE(values.max().item<double>(), 1.3);
    if (shape[0] != shape[1]) {
      EXPECT_GE(values.min().item<double>(), 0.6);
    }
  }
  EXPECT_EQ(detail::newton_schulz(at::zeros_like(at::randn({3, 4})), 5, 1e-7).abs().max().item<double>(), 0);
}

TEST(Muon, Kernel_IsSteppedAsAMatrix) {
  const at::Tensor start = at::randn({8, 3, 2, 2}), gradient = at::randn({8, 3, 2, 2});
  at::Tensor kernel = start.clone(), matrix = start.reshape({8, 12}).clone();
  Muon a({kernel}, recipe_options()), b({matrix}, recipe_options());
  for (int i = 0; i < 2; ++i) {
    kernel.mutable_grad() = gradient.clone();
    matrix.mutable_grad() = gradient.reshape({8, 12}).clone();
    a.step();
    b.step();
  }
  EXPECT_TRUE(at::equal(kernel.reshape({8, 12}), matrix));
  // Channels-last strides change nothing.
  at::Tensor last = start.contiguous(at::MemoryFormat::ChannelsLast).clone();
  Muon c({last}, recipe_options());
  for (int i = 0; i < 2; ++i) {
    last.mutable_grad() = gradient.contiguous(at::MemoryFormat::ChannelsLast).clone();
    c.step();
  }
  EXPECT_TRUE(at::allclose(last, kernel, 1e-5, 1e-6));
}

TEST(Muon, Vector_IsRefused) {
  EXPECT_ANY_THROW(Muon({at::randn({3})}));
  at::Tensor matrix = at::randn({4, 4}), vector = at::zeros({4});
  Muon muon({matrix});
  const torch::optim::OptimizerParamGroup group({vector});
  EXPECT_THROW(muon.add_param_group(group), c10::Error);
  static_cast<torch::optim::Optimizer&>(muon).add_param_group(group);
  vector.mutable_grad() = at::ones({4});
  EXPECT_THROW(muon.step(), c10::Error);
  EXPECT_TRUE(vector.eq(0).all().item<bool>());
}

TEST(Muon, Group_HasItsOwnOptions) {
  at::Tensor alone = at::randn({4, 6}), with_defaults = alone.clone(), with_options = alone.clone(),
             added = alone.clone();
  const MuonOptions own = MuonOptions(0.3).weight_decay(0.2);
  const auto group = [&](const at::Tensor& parameter) {
    return torch::optim::OptimizerParamGroup({parameter}, std::make_unique<MuonOptions>(own));
  };
  Muon expected({alone}, own);
  Muon muon({torch::optim::OptimizerParamGroup({with_defaults}), group(with_options)}, MuonOptions(0.01));
  muon.add_param_group(group(added));
  const at::Tensor gradient = at::randn({4, 6});
  for (at::Tensor* parameter : {&alone, &with_defaults, &with_options, &added})
    parameter->mutable_grad() = gradient.clone();
  expected.step();
  muon.step();
  EXPECT_TRUE(with_options.equal(alone));
  EXPECT_TRUE(added.equal(alone));
  EXPECT_FALSE(with_defaults.equal(alone));
}

TEST(Muon, OptionOutOfRange_IsNamed) {
  const double nan = std::nan("");
  const std::pair<const char*, MuonOptions> cases[] = {{"lr", MuonOptions(-1)},
                                                       {"lr", MuonOptions(1e39)},
                                                       {"momentum", MuonOptions().momentum(1)},
                                                       {"momentum", MuonOptions().momentum(nan)},
                                                       {"weight_decay", MuonOptions().weight_decay(-0.1)},
                                                       {"ns_steps", MuonOptions().ns_steps(-1)},
                                                       {"eps", MuonOptions().eps(0)},
                                                       {"ns_dtype", MuonOptions().ns_dtype(at::kInt)}};
  for (const auto& [name, options] : cases) {
    const auto expect_named = [&, field = std::string("Muon: ") + name](const auto& make) {
      try {
        make();
        ADD_FAILURE() << field << " is not refused";
      } catch (const c10::Error& error) {
        EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
      }
    };
    expect_named([&, o = options] { Muon({at::randn({4, 4})}, o); });
    expect_named([&, o = options] {
      Muon({torch::optim::OptimizerParamGroup({at::randn({4, 4})}, std::make_unique<MuonOptions>(o))});
    });
  }
}

TEST(Muon, SavedState_ContinuesBitwise) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    at::Tensor p = at::randn({6, 4});
    Muon muon({p}, recipe_options().ns_dtype(dtype));
    const auto step = [](Muon& with, at::Tensor& on, const at::Tensor& gradient) {
      on.mutable_grad() = gradient.clone();
      with.step();
    };
    step(muon, p, at::randn({6, 4}));

    torch::serialize::OutputArchive out;
    muon.save(out);
    std::stringstream bytes;
    out.save_to(bytes);
    at::Tensor q = p.clone();
    Muon other({q}, MuonOptions(7));  // other options, which the archive replaces
    torch::serialize::InputArchive in;
    in.load_from(bytes);
    other.load(in);

    for (int i = 0; i < 2; ++i) {
      const at::Tensor gradient = at::randn({6, 4});
      step(muon, p, gradient);
      step(other, q, gradient);
    }
    EXPECT_TRUE(at::equal(p, q)) << toString(dtype);
  }
}

}  // namespace
}  // namespace refine
