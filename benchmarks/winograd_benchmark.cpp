// Times a 3×3 convolution of a batch of 64 in float32, by LibTorch and by this library.

#include <benchmark/benchmark.h>

#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <c10/core/GradMode.h>
#include <torch/nn/modules/conv.h>

#include <cstdint>

#include <refine/nn/conv.hpp>
#include <refine/nn/device.hpp>

namespace {

using namespace refine;

/// A convolution with its input. The arguments are channels, side, and 1 for this library or 0 for
/// LibTorch.
struct Layer {
  torch::nn::Conv2d convolution;
  at::Tensor x;

  explicit Layer(const benchmark::State& state)
      : convolution(torch::nn::Conv2dOptions(state.range(0), state.range(0), 3).padding(1)),
        x(at::randn({64, state.range(0), state.range(1), state.range(1)})
              .contiguous(at::MemoryFormat::ChannelsLast)) {
    use_threads(0);
    keep_freed_memory();
    nn::to_channels_last(*convolution);
    nn::allow_winograd(state.range(2) != 0);
  }
};

/// Adds the channels and sides of ResNet-18 of width 64 and of width 16.
void add_layers(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t width : {64, 16}) {
    for (const std::int64_t stage : {1, 2, 4, 8}) {
      for (const std::int64_t ours : {0, 1}) benchmark->Args({stage * width, 32 / stage, ours});
    }
  }
  benchmark->Unit(benchmark::kMillisecond)->UseRealTime();
}

void Convolve(benchmark::State& state) {
  Layer layer(state);
  c10::NoGradGuard no_grad;
  for (auto _ : state) benchmark::DoNotOptimize(nn::convolve(layer.convolution, layer.x));
}
BENCHMARK(Convolve)->Apply(add_layers);

void Gradients(benchmark::State& state) {
  Layer layer(state);
  layer.x.requires_grad_(true);
  const at::Tensor y = nn::convolve(layer.convolution, layer.x), g = at::randn_like(y);
  for (auto _ : state) y.backward(g, /*retain_graph=*/true);
}
BENCHMARK(Gradients)->Apply(add_layers);

}  // namespace
