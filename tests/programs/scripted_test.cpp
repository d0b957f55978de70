// Any TorchScript classifier as a backbone: outputs and gradients equal those of LibTorch's module.

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/serialization/import.h>

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>
#include <torch/nn/modules/linear.h>
#include <string>
#include <utility>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/programs/torchscript.hpp>
#include <refine/winograd/detail/instruction_set.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;

static_assert(backbones::FrozenBackbone<backbones::Scripted<>>);
static_assert(backbones::Backbone<backbones::AnyBackbone>);

/// Returns a network of a convolution with BatchNorm, followed by `tail`.
/// \param tail code that maps `x`, N×4×H×W, to what forward returns
/// \param more further arguments of forward
torch::jit::Module network(const std::string& tail, const std::string& more = "") {
  return nn::with_torch_seed(3, [&] {
    torch::jit::Module m("network");
    m.register_parameter("kernel", at::randn({4, 3, 3, 3}), false);
    m.register_parameter("gain", at::rand({4}) + 0.5, false);
    m.register_parameter("shift", at::randn({4}), false);
    m.register_buffer("mean", at::randn({4}));
    m.register_buffer("var", at::rand({4}) + 0.5);
    m.register_parameter("weight", at::randn({5, 4}), false);
    m.define("def forward(self, x" + more + R"():
    x = torch.conv2d(x, self.kernel, None, [1, 1], [1, 1])
    x = torch.batch_norm(x, self.gain, self.shift, self.mean, self.var, False, 0.1, 1e-5, False)
    x = torch.relu(x)
)" + tail);
    m.eval();
    return m;
  });
}

const std::string linear = "    return torch.matmul(torch.mean(x, [2, 3]), self.weight.t())\n";

at::Tensor images(std::int64_t n, std::int64_t side = 16) {
  return nn::with_torch_seed(1, [&] { return at::rand({n, 3, side, side}); });
}

// LibTorch reads beyond its tables with such numbers.
TEST(Scripted, TypesAndMemoryFormatsThatDoNotExist_AreRefused) {
  const auto with = [](const std::string& code, const std::string& more = "") {
    torch::jit::Module m = network("    x = " + code + "\n" + linear, more);
    return backbones::Scripted<>(m, "m", {.task = {{3, 16, 16}, dynamic}});
  };
  for (const char* code :
       {"torch.clone(x, memory_format=4)", "torch.clone(x, memory_format=-1)",
        "x + torch.zeros_like(x, memory_format=4)", "x.to(dtype=200).to(dtype=6)", "x.to(200).to(6)",
        "x + torch.zeros([1], dtype=-1)", "torch.softmax(x, 1, dtype=1000)",
        "x.to(dtype=6 if x.size(0) > 1 else 200)", "x.to(dtype=x.size(0) + 5)",
        "torch.clone(x, memory_format=torch.ones([1], dtype=4).dtype)"}) {
    SCOPED_TRACE(code);
    expect_words(error_of([&] { with(code); }), {"does not have, or computes it"});
  }
  expect_words(error_of([&] { with("x.to(dtype=kind)", ", kind: int=200"); }), {"aten::to a dtype"});
  for (const char* code : {"torch.clone(x, memory_format=2)", "x.to(dtype=self.weight.dtype)",
                           "x + torch.zeros([1], dtype=6 if x.size(0) > 1 else self.weight.dtype)"}) {
    SCOPED_TRACE(code);
    EXPECT_EQ(with(code).forward(images(2)).sizes(), (std::vector<std::int64_t>{2, 5}));
  }
  EXPECT_EQ(with("x.to(dtype=kind)", ", kind: int=6").forward(images(2)).size(1), 5);
}

TEST(Scripted, TypeInAnAttribute_IsCheckedToo) {
  for (const int kind : {6, 200}) {
    torch::jit::Module m("network"), part("part");
    part.register_attribute("kind", c10::IntType::get(), kind);
    part.define("def forward(self, x):\n    return x.to(dtype=self.kind)\n");
    m.register_module("part", part);
    m.define("def forward(self, x):\n    return torch.mean(self.part.forward(x), [2, 3])\n");
    m.eval();
    const auto load = [&] { return backbones::Scripted<>(m, "m", {.task = {{3, 16, 16}, dynamic}}); };
    if (kind == 6)
      EXPECT_EQ(load().forward(images(2)).size(1), 3);
    else
      expect_words(error_of(load), {"aten::to a dtype"});
  }
}

TEST(Scripted, Code_IsThatOfTheProgram) {
  const ImageShape shape{3, 16, 16};
  const auto code = [&](const torch::jit::Module& m) {
    const backbones::Scripted<> victim(m, "m", {.task = {shape, dynamic}});
    const std::string code = nn::code_of(*victim.module);
    EXPECT_EQ(nn::code_of(*freeze(victim).module), code);
    EXPECT_EQ(
        nn::code_of(*backbones::AnyBackbone(backbones::Normalized{victim, normalizations::cifar10}).module),
        code);
    return code;
  };
  const std::string first = code(network(linear));
  EXPECT_NE(first, "");
  const testing::ScratchFolder folder;
  network(linear).save((folder.path / "m.pt").string());
  EXPECT_EQ(code(torch::jit::load((folder.path / "m.pt").string())), first);
  EXPECT_NE(code(network("    x = x * 2\n" + linear)), first) << "the same tensors";
  EXPECT_EQ(nn::code_of(*backbones::ResNet18<>{.task = {{3, 16, 16}, 4}, .width = 4}.module), "");
}

TEST(Scripted, ForwardAndBackward_EqualThoseOfTheModule) {
  torch::jit::Module m = network(linear);
  const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, dynamic}});
  EXPECT_EQ(victim.task, (Task{{3, 16, 16}, 5}));
  EXPECT_TRUE(victim.module->parameters().empty()) << "it must have nothing to train";
  for (std::int64_t n : {1, 4}) {
    at::Tensor ours = images(n).requires_grad_(), theirs = images(n).requires_grad_();
    const at::Tensor output = victim.forward(ours), expected = m.forward({theirs}).toTensor();
    EXPECT_TRUE(at::allclose(output, expected, 1e-5, 1e-5));
    output.square().sum().backward();
    expected.square().sum().backward();
    EXPECT_TRUE(at::allclose(ours.grad(), theirs.grad(), 1e-4, 1e-5));
  }
}

// Whether an operator returns the images' own memory is not in every schema (einsum).
TEST(Scripted, ProgramThatWritesInPlace_LeavesTheImagesAlone) {
  const std::string rest = R"(
    y = torch.conv2d(x, self.kernel, None, [1, 1], [1, 1])
    return torch.matmul(torch.mean(y, [2, 3]), self.weight.t())
)";
  for (const char* change : {"x.sub_(0.5).div_(0.25)", "torch.einsum(\"nchw->nchw\", [x]).sub_(0.5)"}) {
    torch::jit::Module m = nn::with_torch_seed(3, [&] {
      torch::jit::Module changes("network");
      changes.register_parameter("kernel", at::randn({4, 3, 3, 3}), false);
      changes.register_parameter("weight", at::randn({5, 4}), false);
      changes.define("def forward(self, x):\n    " + std::string(change) + rest);
      changes.eval();
      return changes;
    });
    const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, dynamic}});
    const at::Tensor given = images(3), before = given.clone();
    const at::Tensor first = victim.forward(given), second = victim.forward(given);
    EXPECT_TRUE(at::equal(given, before)) << change;
    EXPECT_TRUE(at::equal(first, second)) << change;
    EXPECT_TRUE(at::allclose(first, m.forward({given}).toTensor(), 1e-4, 1e-4)) << change;
  }
}

// The schemas of these operators do not declare that they return or change a constant tensor.
TEST(Scripted, ProgramThatWritesToItsTensorsUndeclared_KeepsThem) {
  for (
      const char* body :
      {"    w = torch.conj_physical(self.weight)\n    w.add_(1)\n",
       "    w = torch.dropout(self.weight, 0.5, False)\n    w.add_(1)\n",
       "    w = self.weight\n    for i in range(2):\n        w = torch.conj_physical(w)\n    w.add_(1)\n",
       "    w = torch.einsum(\"ij->ij\", [self.weight])\n    w.add_(1)\n",
       "    w = self.weight\n    x = torch.batch_norm(x, None, None, w[0], w[1], True, 0.1, 1e-5, False)\n"}) {
    const torch::jit::Module m =
        network(std::string(body) + "    return torch.matmul(torch.mean(x * x, [2, 3]), w.t())\n");
    const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, dynamic}});
    std::vector<at::Tensor> before;
    for (const at::Tensor& tensor : victim.module->buffers()) before.push_back(tensor.clone());
    const at::Tensor first = victim.forward(images(2)), second = victim.forward(images(2));
    EXPECT_TRUE(at::equal(first, second)) << body;
    for (std::size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(at::equal(victim.module->buffers()[i], before[i])) << body;
  }
}

// In PyTorch, a conversion to another type is a copy. Here, all types are float32.
TEST(Scripted, ConvertedTensors_AreCopies) {
  for (const char* body : {"h = x.half()\n    y = h.float()\n    y.mul_(2)\n    x = y + h.float()\n",
                           "h = x.double()\n    y = h.float()\n    y.mul_(2)\n    x = y + x\n"}) {
    torch::jit::Module m = network("    " + std::string(body) + linear);
    const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, dynamic}});
    const at::Tensor x = images(2);
    EXPECT_TRUE(at::allclose(victim.forward(x), m.forward({x}).toTensor(), 1e-2, 1e-2)) << body;
  }
}

// With other sizes, LibTorch reads beyond the keys, and beyond the bias.
TEST(Scripted, UncheckedArguments_AreRefused) {
  const std::string attention = R"(
    q = x.flatten(2)
    y = torch.scaled_dot_product_attention(q, q[:, 0:2], q)
    return torch.matmul(torch.mean(y, [2]), self.weight.t())
)";
  expect_words(error_of([&] {
                 backbones::Scripted<>(network(attention), "m", {.task = {{3, 16, 16}, dynamic}});
               }),
               {"scaled_dot_product_attention", "keys and values"});
  // What is constant is computed while the program is prepared.
  const std::string constant = R"(
    y = torch._native_batch_norm_legit_no_training(torch.zeros([1, 640, 1, 1]), None, torch.ones([1]), torch.zeros([640]), torch.ones([640]), 0.1, 1e-5)[0]
    return torch.matmul(torch.mean(x, [2, 3]), self.weight.t()) + y.flatten()[0:5]
)";
  expect_words(error_of([&] {
                 backbones::Scripted<>(network(constant), "m", {.task = {{3, 16, 16}, dynamic}});
               }),
               {"_native_batch_norm_legit_no_training", "one number for each channel"});
  torch::jit::Module right = network(R"(
    q = x.flatten(2)
    y = torch.scaled_dot_product_attention(q, q, q)
    return torch.matmul(torch.mean(y, [2]), self.weight.t())
)");
  const backbones::Scripted<> victim(right, "m", {.task = {{3, 16, 16}, dynamic}});
  EXPECT_TRUE(at::allclose(victim.forward(images(2)), right.forward({images(2)}).toTensor(), 1e-4, 1e-4));
}

TEST(Scripted, NoLogits_SaysHowToExportThem) {
  const auto refusal = [](const std::string& tail) {
    return error_of([&] { backbones::Scripted<>(network(tail), "m.pt", {.task = {{3, 16, 16}, dynamic}}); });
  };
  const std::string logits = "    y = torch.matmul(torch.mean(x, [2, 3]), self.weight.t())\n";
  expect_words(refusal(logits + "    return torch.argmax(y, 1)\n"), {"export it without argmax"});
  expect_words(refusal(logits + "    return torch.sigmoid(y[:, :1])\n"),
               {"one number per image", "a logit for each"});
  expect_words(refusal(logits + "    return torch.sigmoid(y[:, 0])\n"), {"one number per image"});
  expect_words(refusal(logits + "    return y.view([-1, 5, 1, 1])\n"), {"torch.flatten(logits, 1)"});
  expect_words(refusal("    return x\n"), {"m.pt", "images×classes", "specify the shape"});
  expect_words(refusal(logits + "    return torch.squeeze(y)\n"), {"without squeeze()"});
  // What is advised works, also for N×1.
  const std::string one = logits + "    x = torch.flatten(torch.sum(y, 1, True))\n" +
                          "    return torch.stack([torch.zeros_like(x), x], 1)\n";
  EXPECT_EQ(backbones::Scripted<>(network(one), "m.pt", {.task = {{3, 16, 16}, dynamic}}).task.classes, 2);
  const std::string advised =
      logits + "    y = torch.sum(y, 1)\n    return torch.stack([torch.zeros_like(y), y], 1)\n";
  EXPECT_EQ(backbones::Scripted<>(network(advised), "m.pt", {.task = {{3, 16, 16}, dynamic}}).task.classes,
            2);
}

TEST(Scripted, OpenTask_IsFoundByAProbe) {
  // Only 3×28×28 fits this matrix.
  torch::jit::Module m = network("    return torch.matmul(torch.flatten(x, 1), torch.ones([3136, 7]))\n");
  EXPECT_EQ((backbones::Scripted<>(m, "m").task), (Task{{3, 28, 28}, 7}));
  EXPECT_EQ((backbones::Scripted<Task{{3, 28, 28}, 7}>(m, "m").task), (Task{{3, 28, 28}, 7}));
  expect_words(error_of([&] {
                 backbones::Scripted<>(m, "m.pt", {.task = {{3, 32, 32}, dynamic}});
               }),
               {"m.pt", "tried 3x32x32"});
  expect_words(error_of([&] {
                 backbones::Scripted<>(m, "m.pt", {.task = {{}, 10}});
               }),
               {"m.pt", "7 classes", "10 were specified"});
  expect_words(error_of([&] {
                 backbones::Scripted<>(m, "m.pt", {.task = {{4, dynamic, dynamic}, dynamic}});
               }),
               {"m.pt", "no candidate shape", "4x?x?"});
}

TEST(Scripted, TaskOtherThanThatOfTheType_Throws) {
  torch::jit::Module m = network(linear);
  expect_words(error_of([&] {
                 backbones::Scripted<Task{{3, 16, dynamic}, dynamic}>(m, "m.pt", {.task = {{1, 16, 16}, 5}});
               }),
               {"Scripted<3x16x?, ?>", "task", "got 1x16x16, 5 classes"});
  expect_words(error_of([&] {
                 backbones::Scripted<Task{{3, 16, 16}, 5}>(m, "m.pt", {.task = {{1, 16, dynamic}, dynamic}});
               }),
               {"Scripted<3x16x16, 5>", "task", "got 1x16x?, ? classes"});
}

TEST(Scripted, ControlFlow_IsKept) {
  torch::jit::Module m = network(
      "    y = torch.mean(x, [2, 3])\n"
      "    if x.size(0) > 2:\n"
      "        y = y * 2\n"
      "    return torch.matmul(y, self.weight.t())\n");
  const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, 5}});
  for (std::int64_t n : {1, 2, 3, 5}) {
    EXPECT_TRUE(at::allclose(victim.forward(images(n)), m.forward({images(n)}).toTensor(), 1e-5, 1e-5)) << n;
  }
}

TEST(Scripted, AttributesThatFreezingLeaves_AreInlined) {
  // A branch changes a list of weights, so freezing leaves them as attributes.
  torch::jit::Module m = network(
      "    weights = [self.weight]\n"
      "    if x.size(0) > 100:\n"
      "        weights[0].add_(1)\n"
      "    return torch.matmul(torch.mean(x, [2, 3]), weights[0].t())\n");
  const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, 5}});
  EXPECT_TRUE(at::allclose(victim.forward(images(2)), m.forward({images(2)}).toTensor(), 1e-5, 1e-5));
}

TEST(Scripted, NamedDevice_IsReplacedByThatOfTheImages) {
  // A traced torch.zeros names the device of the machine it was traced on.
  torch::jit::Module m = network(
      "    zeros = torch.zeros([5], dtype=6, device=torch.device('cpu'))\n"
      "    return torch.matmul(torch.mean(x, [2, 3]), self.weight.t()) + zeros\n");
  const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, 5}});
  EXPECT_TRUE(at::allclose(victim.forward(images(2)), m.forward({images(2)}).toTensor(), 1e-5, 1e-5));
}

TEST(Scripted, HalfPrecision_IsConvertedToFloat32) {
  torch::jit::Module m = network(linear), half = m.deepcopy();  // copy() shares the tensors
  half.to(at::kHalf);
  const backbones::Scripted<> victim(half, "m", {.task = {{3, 16, 16}, 5}});
  EXPECT_TRUE(at::allclose(victim.forward(images(2)), m.forward({images(2)}).toTensor(), 1e-2, 1e-2));
}

TEST(Scripted, SeveralTensorsAndDefaultArguments_AreAccepted) {
  torch::jit::Module m = network(
      "    y = torch.matmul(torch.mean(x, [2, 3]), self.weight.t())\n"
      "    if twice:\n"
      "        y = y + y\n"
      "    return (y, x)\n",
      ", twice: bool = True");
  const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, 5}});
  EXPECT_TRUE(at::allclose(victim.forward(images(2)),
                           m.forward({images(2)}).toTuple()->elements()[0].toTensor(), 1e-5, 1e-5));
}

TEST(Scripted, Probabilities_AreConvertedToLogits) {
  torch::jit::Module m =
      network("    return torch.softmax(torch.matmul(torch.mean(x, [2, 3]), self.weight.t()), 1)\n");
  const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, 5}});
  EXPECT_TRUE(victim.probabilities());
  EXPECT_TRUE(
      at::allclose(victim.forward(images(2)).softmax(1), m.forward({images(2)}).toTensor(), 1e-5, 1e-6));
  EXPECT_FALSE(backbones::Scripted<>(network(linear), "m", {.task = {{3, 16, 16}, 5}}).probabilities());
}

TEST(Scripted, ProgramForContiguousImages_TakesChannelsLast) {
  // LibTorch refuses to view channels-last N×4×H×W as N×(4·H·W).
  torch::jit::Module m = network("    return x.view([x.size(0), 1024])[:, :6]\n");
  const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, 6}});
  const at::Tensor x = images(3).contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(at::allclose(victim.forward(x), m.forward({images(3)}).toTensor(), 1e-5, 1e-5));
}

TEST(Scripted, NoClassifierOfBatches_Throws) {
  const auto line = [](const torch::jit::Module& m) {
    return error_of([&] { backbones::Scripted<>(m, "m.pt", {.task = {{3, 16, 16}, dynamic}}); });
  };
  expect_words(line(network("    return 3\n")), {"m.pt", "returns int"});
  expect_words(line(network("    return x\n")), {"m.pt", "2×4×16×16"});
  expect_words(line(network(linear, ", other")), {"m.pt", "'other'"});
  expect_words(line(network("    return torch.flatten(x, 1).view([1, -1])\n")), {"m.pt", "1×2048"});
  expect_words(line(network("    return torch.squeeze(torch.flatten(x, 1))\n")),
               {"m.pt", "1 image(s)", "1024"});
}

// torch.jit.trace writes `_convolution`, which LibTorch's autocast leaves out on processors: beside a convolution
// that it does not leave out, tensors of two types would meet.
TEST(Scripted, TracedConvolutions_TakeTheTypeOfAutocast) {
  const auto net = [](const std::string& kernel, const std::string& shape) {
    return nn::with_torch_seed(3, [&] {
      torch::jit::Module m("network");
      m.register_parameter("first", at::randn({4, 3, 3, 3}) / 5, false);
      m.register_parameter("pointwise", at::randn({6, 4, 1, 1}) / 2, false);
      m.register_parameter("depthwise", at::randn({4, 1, 3, 3}) / 3, false);
      m.register_parameter("full", at::randn({6, 4, 3, 3}) / 6, false);
      m.register_parameter("turned", at::randn({4, 6, 2, 2}) / 4, false);
      m.register_parameter("bias", at::randn({6}), false);
      m.define(
          "def forward(self, x):\n    x = torch.conv2d(x, self.first, None, [1, 1], [1, 1])\n    return "
          "torch._convolution(x, self." +
          kernel + ", " + shape + ", False, False, True, True)\n");
      m.eval();
      return m;
    });
  };
  const at::Tensor x = images(4);
  for (const auto& [kernel, shape] :
       {std::pair{"pointwise", "self.bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1"},
        {"pointwise", "None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1"},
        {"depthwise", "None, [1, 1], [1, 1], [1, 1], False, [0, 0], 4"},
        {"full", "self.bias, [2, 2], [1, 1], [1, 1], False, [0, 0], 1"},
        {"full", "None, [1, 1], [2, 2], [2, 2], False, [0, 0], 1"},
        {"turned", "self.bias, [2, 2], [0, 0], [1, 1], True, [0, 0], 1"}}) {
    SCOPED_TRACE(std::string(kernel) + ", " + shape);
    torch::jit::Module m = net(kernel, shape);
    backbones::detail::ScriptedModule ours(m, "m");
    const at::Tensor given = x.clone().requires_grad_(), input = x.clone().requires_grad_(),
                     exact = m.forward({input}).toTensor();
    EXPECT_LT((ours.forward(x) - exact).abs().max().item<double>(), 1e-5);
    at::Tensor logits;
    {
      const nn::Autocast autocast(at::kCPU, true);
      logits = ours.forward(given);
    }
    EXPECT_EQ(logits.scalar_type(), at::kBFloat16);
    const auto relative = [](const at::Tensor& a, const at::Tensor& b) {
      return ((a.to(at::kFloat) - b).abs().max() / b.abs().max()).item<double>();
    };
    EXPECT_LT(relative(logits, exact), 2e-2);  // bfloat16 has a precision of 4e-3
    logits.to(at::kFloat).square().sum().backward();
    exact.square().sum().backward();
    EXPECT_LT(relative(given.grad(), input.grad()), 4e-2);
  }
}

TEST(Scripted, Convolutions_UseWinogradWherePossible) {
  const auto deep = [](const std::string& convolution) {
    return nn::with_torch_seed(3, [&] {
      torch::jit::Module m("network");
      m.register_parameter("first", at::randn({16, 3, 3, 3}) / 5, false);
      m.register_parameter("second", at::randn({16, 16, 3, 3}) / 12, false);
      m.register_parameter("bias", at::randn({16}), false);
      m.define("def forward(self, x):\n    x = torch.conv2d(x, self.first, None, [1, 1], [1, 1])\n    x = " +
               convolution + "\n    return torch.mean(x, [2, 3])\n");
      m.eval();
      return m;
    });
  };
  const at::Tensor x = images(64);
  const auto distances = [&](const torch::jit::Module& m) {  // of outputs and of gradients
    const backbones::Scripted<> victim(m, "m", {.task = {{3, 16, 16}, 16}});
    const at::Tensor ours = x.clone().requires_grad_(true), theirs = x.clone().requires_grad_(true);
    const at::Tensor a = victim.forward(ours), b = torch::jit::Module(m).forward({theirs}).toTensor();
    a.square().sum().backward();
    b.square().sum().backward();
    return std::pair{(a - b).abs().max().item<double>(),
                     ((ours.grad() - theirs.grad()).abs().max() / theirs.grad().abs().max()).item<double>()};
  };
  for (const char* convolution :
       {"torch.conv2d(x, self.second, self.bias, [1, 1], [1, 1])",
        "torch.conv2d(x, self.second, None, [1, 1], [1, 1], [1, 1], 1)",
        "torch._convolution(x, self.second, self.bias, [1, 1], [1, 1], [1, 1], False, "
        "[0, 0], 1, False, False, True, True)"}) {
    const torch::jit::Module m = deep(convolution);
    const auto [outputs, gradients] = distances(m);
    EXPECT_LT(outputs, 1e-5) << convolution;
    EXPECT_LT(gradients, 1e-5) << convolution;
    nn::allow_winograd(false);
    const backbones::Scripted<> by_libtorch(m, "m", {.task = {{3, 16, 16}, 16}});
    const at::Tensor plain = by_libtorch.forward(x);
    nn::allow_winograd(true);
    const auto traced = torch::jit::tracer::trace(
        {x},
        [&](torch::jit::Stack in) -> torch::jit::Stack { return {by_libtorch.forward(in[0].toTensor())}; },
        [](const at::Tensor&) { return ""; });
    EXPECT_EQ(traced.first->graph->toString().find("refine::"), std::string::npos)
        << "other programs could not load it";
    EXPECT_EQ(plain.equal(by_libtorch.forward(x)), winograd::instruction_set(16, 16) == nullptr);
  }
  // LibTorch computes transposed convolutions and other strides, dilations and paddings.
  for (const char* convolution : {"torch._convolution(x, self.second, self.bias, [1, 1], [1, 1], [1, 1], "
                                  "True, [0, 0], 1, False, False, True, "
                                  "True)",
                                  "torch.conv2d(x, self.second, self.bias, [2, 2], [1, 1])",
                                  "torch.conv2d(x, self.second, self.bias, [1, 1], [2, 2], [2, 2])",
                                  "torch.conv2d(x, self.second, self.bias, [1, 1], \"same\")"}) {
    const auto [outputs, gradients] = distances(deep(convolution));
    EXPECT_LT(outputs, 1e-5) << convolution;
    EXPECT_LT(gradients, 1e-5) << convolution;
  }
}

TEST(Scripted, NormalizedAndFrozen_GivesTheSameLogits) {
  torch::jit::Module m = network(linear);
  const backbones::Scripted<> bare(m, "m", {.task = {{3, 16, 16}, 5}});
  const auto frozen = freeze(backbones::Normalized{bare, normalizations::cifar10});
  const auto any = freeze(backbones::AnyBackbone(backbones::Normalized{bare, normalizations::cifar10}));
  const at::Tensor x = images(2);
  const at::Tensor mean = at::tensor({0.4914, 0.4822, 0.4465}, at::kFloat).view({1, 3, 1, 1});
  const at::Tensor deviation = at::tensor({0.2023, 0.1994, 0.2010}, at::kFloat).view({1, 3, 1, 1});
  const at::Tensor expected = m.forward({(x - mean) / deviation}).toTensor();
  EXPECT_TRUE(at::allclose(frozen.forward(x), expected, 1e-4, 1e-5));
  EXPECT_TRUE(at::equal(frozen.forward(x), any.forward(x)));
  EXPECT_TRUE(at::equal(any.forward_normalized(any.normalize(x)), any.forward(x)));
  EXPECT_EQ(any.named_constants().size(), 2u);
  EXPECT_NE(frozen.module, bare.module) << "freeze must copy";
}

TEST(AnyBackbone, HeldFrozenAndNested_GivesTheSameLogits) {
  const backbones::ResNet18<> network{.task = {{3, 16, 16}, 5}, .width = 4};
  network.module->eval();
  const backbones::Normalized known{network, normalizations::cifar10};
  const backbones::AnyBackbone any{
      backbones::Normalized{backbones::AnyBackbone(network), normalizations::cifar10}};
  const at::Tensor x = images(2);
  EXPECT_TRUE(at::equal(any.forward(x), known.forward(x)));
  const auto frozen = freeze(any);
  EXPECT_TRUE(at::equal(frozen.forward(x), freeze(known).forward(x)));
  {
    c10::NoGradGuard no_grad;
    for (auto& parameter : network.module->parameters()) parameter.zero_();
  }
  EXPECT_TRUE(at::equal(frozen.forward(x), freeze(frozen).forward(x))) << "freeze must copy";
  EXPECT_GT(frozen.forward(x).abs().max().item<double>(), 0);
  EXPECT_EQ(any.forward(x).abs().max().item<double>(), 0) << "without freeze, the network must be shared";
  expect_words(error_of([&] { any.with_module(std::make_shared<torch::nn::LinearImpl>(2, 2)); }),
               {"AnyBackbone", "same kind"});
}

}  // namespace
}  // namespace refine
