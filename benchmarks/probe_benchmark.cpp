// The cost of the probe before a defense: of a TorchScript ResNet-18 of 3×32×32 images and a
// ResNet-50 of 3×224×224 images, width 64. Arg 0: the classifier is asked as specified; 1: other
// normalisations, channel orders and sizes are tried, too. The weights are random, so that the
// answers look wrong.

#include <benchmark/benchmark.h>

#include <ATen/ops/randint.h>
#include <unistd.h>
#include <filesystem>
#include <string>
#include <vector>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/defend/probe.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/nn/device.hpp>
#include <refine/programs/torchscript.hpp>

namespace {

using namespace refine;

template <typename Network>
void run(benchmark::State& state, const Task& task) {
  use_threads(0);
  keep_freed_memory();
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("probe_benchmark_" + std::to_string(getpid()) + ".pt");
  export_torchscript(freeze(Network{.task = task}), file);
  const backbones::AnyBackbone victim(
      backbones::Normalized{backbones::Scripted<>(file, {.task = task}), normalizations::imagenet});
  std::filesystem::remove(file);
  const at::Tensor images = at::randint(256, {64, 3, task.image.height, task.image.width}, at::kByte);
  ProbeOptions options{.sweep = state.range(0) == 1};
  for (const int side : {32, 28, 48, 64, 96, 128, 224, 256, 299, 384})
    options.sizes.push_back({3, side, side});
  std::size_t settings = 0;
  for (auto _ : state) settings = probe(victim, images, options).tried.size();
  state.counters["settings tried"] = static_cast<double>(settings);
}

void ProbeResNet18(benchmark::State& state) {
  run<backbones::ResNet18<>>(state, {{3, 32, 32}, 10});
}
void ProbeResNet50(benchmark::State& state) {
  run<backbones::ResNet50<>>(state, {{3, 224, 224}, 1000});
}

// One run each: the work of LibTorch at the first batch of a shape is part of the cost.
BENCHMARK(ProbeResNet18)
    ->Arg(0)
    ->Arg(1)
    ->Iterations(1)
    ->Unit(benchmark::kSecond)
    ->UseRealTime()
    ->MeasureProcessCPUTime();
BENCHMARK(ProbeResNet50)
    ->Arg(0)
    ->Arg(1)
    ->Iterations(1)
    ->Unit(benchmark::kSecond)
    ->UseRealTime()
    ->MeasureProcessCPUTime();

}  // namespace
