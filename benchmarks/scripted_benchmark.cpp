// Times a TorchScript classifier: as LibTorch runs its file (Arg 0), as backbones::Scripted does
// (Arg 1), and as .pt2 in backbones::ExportedProgram (Arg 2). Eight convolutions with BatchNorm,
// batches of 64, 3×32×32.

#include <benchmark/benchmark.h>
#include <torch/csrc/jit/api/module.h>

#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <filesystem>
#include <string>

#include <refine/export/pt2.hpp>
#include <refine/nn/device.hpp>
#include <refine/programs/exported_program.hpp>
#include <refine/programs/torchscript.hpp>

namespace {

using namespace refine;

constexpr int layers = 8, width = 32;

/// Makes the classifier.
torch::jit::Module make_network() {
  torch::jit::Module m("network");
  std::string code = "def forward(self, x):\n";
  for (int i = 0; i < layers; ++i) {
    const std::string n = std::to_string(i);
    m.register_parameter("w" + n, at::randn({width, i == 0 ? 3 : width, 3, 3}) * 0.1, false);
    m.register_parameter("g" + n, at::ones({width}), false);
    m.register_parameter("b" + n, at::zeros({width}), false);
    m.register_buffer("m" + n, at::zeros({width}));
    m.register_buffer("v" + n, at::ones({width}));
    code += "    x = torch.conv2d(x, self.w" + n + ", None, [1, 1], [1, 1])\n";
    code += "    x = torch.relu(torch.batch_norm(x, self.g" + n + ", self.b" + n + ", self.m" + n +
            ", self.v" + n + ", False, 0.1, 1e-5, False))\n";
  }
  m.define(code + "    return torch.mean(x, [2, 3])\n");
  m.eval();
  return m;
}

void run(benchmark::State& state, bool gradient) {
  use_threads(0);
  keep_freed_memory();
  torch::jit::Module raw = make_network();
  const backbones::Scripted<> scripted(raw, "network", {.task = {{3, 32, 32}, width}});
  const std::filesystem::path file = std::filesystem::temp_directory_path() / "scripted_benchmark.pt2";
  export_pt2(scripted, file);
  const backbones::ExportedProgram<> exported(file);
  std::filesystem::remove(file);
  at::Tensor x = at::rand({64, 3, 32, 32});
  if (state.range(0) > 0) x = x.contiguous(at::MemoryFormat::ChannelsLast);
  const at::AutoGradMode mode(gradient);
  if (gradient) x.requires_grad_();
  const auto step = [&] {
    const at::Tensor y = state.range(0) == 0   ? raw.forward({x}).toTensor()
                         : state.range(0) == 1 ? scripted.forward(x)
                                               : exported.forward(x);
    if (gradient) y.sum().backward();
  };
  for (int i = 0; i < 3; ++i) step();  // LibTorch profiles the module in its first runs
  for (auto _ : state) step();
  state.SetItemsProcessed(state.iterations() * 64);
}

void ScriptedForward(benchmark::State& state) {
  run(state, false);
}
BENCHMARK(ScriptedForward)->Arg(0)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

void ScriptedGradient(benchmark::State& state) {
  run(state, true);
}
BENCHMARK(ScriptedGradient)->Arg(0)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
