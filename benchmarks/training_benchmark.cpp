// Times the parts of a step of fit on the default device: width 16, batches of 64, 3×32×32.

#include <benchmark/benchmark.h>

#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/sources.hpp>
#include <refine/nn/device.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/fit.hpp>
#include <refine/transforms/unet.hpp>

namespace {

using namespace refine;

constexpr Task task = tasks::cifar10;
constexpr std::int64_t batch = 64;

void prepare() {
  use_threads(0);
  keep_freed_memory();
}

/// Returns a batch of random images.
at::Tensor random_batch() {
  return at::rand({batch, 3, 32, 32}).contiguous(at::MemoryFormat::ChannelsLast);
}

void Augment(benchmark::State& state) {
  prepare();
  const at::Tensor x = random_batch();
  std::uint64_t seed = 0;
  for (auto _ : state) benchmark::DoNotOptimize(data::augment(x, {.flip = true, .crop_padding = 2}, ++seed));
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(Augment)->Unit(benchmark::kMillisecond)->UseRealTime();

void Teacher(benchmark::State& state) {
  prepare();
  const backbones::ResNet18<task> victim{.width = 16};
  victim.module->eval();
  const auto frozen = freeze(victim);
  const at::Tensor x = random_batch();
  c10::NoGradGuard no_grad;
  for (auto _ : state) benchmark::DoNotOptimize(state.range(0) ? frozen.forward(x) : victim.forward(x));
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(Teacher)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime();

/// Computes SupCon by its definition: two identical views, 2N×2N similarities, without the pair of
/// an anchor with itself.
at::Tensor supcon_of_two_views(const at::Tensor& features, const at::Tensor& labels) {
  at::Tensor unit = features.flatten(1);
  unit = unit / unit.norm(2, 1, true);
  unit = at::cat({unit, unit});
  const at::Tensor both_labels = at::cat({labels, labels});
  at::Tensor similarity = unit.matmul(unit.t()) / 0.07;
  similarity = similarity - similarity.detach().amax(1, true);
  const at::Tensor others = 1 - at::eye(2 * batch);
  const at::Tensor positives = both_labels.unsqueeze(0).eq(both_labels.unsqueeze(1)) * others;
  const at::Tensor log_share = similarity - (similarity.exp() * others).sum(1, true).log();
  return -((positives * log_share).sum(1) / positives.sum(1)).mean();
}

void SupCon(benchmark::State& state) {
  prepare();
  const at::Tensor x = random_batch().set_requires_grad(true), labels = at::randint(10, {batch}, at::kLong);
  for (auto _ : state) {
    (state.range(0) ? objectives::SupCon{}(x, labels) : supcon_of_two_views(x, labels)).backward();
  }
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(SupCon)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime();

void FitStep(benchmark::State& state) {
  prepare();
  constexpr std::int64_t steps = 5;
  const auto [train, test] = data::Synthetic{.task = task, .train = steps * batch, .test = 1}.make();
  Pipeline defense{transforms::UNet<task>{.width = 16}, freeze(backbones::ResNet18<task>{.width = 16}),
                   remaps::Derangement<task>{}};
  Recipe recipe = recipes::two_cores;
  recipe.optimization.epochs = 1;
  for (auto _ : state) fit(defense, train.images, recipe);
  state.SetItemsProcessed(state.iterations() * steps * batch);
}
BENCHMARK(FitStep)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
