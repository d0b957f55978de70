#include "benchmarks/published_step/step.hpp"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/core/file.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/sources.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/observers.hpp>
#include <refine/transforms/unet.hpp>

#include "benchmarks/program.hpp"

namespace refine::versus {

namespace {

using benchmarks::Clock;

constexpr Task task = tasks::cifar10;

auto victim_of(const Work& work) {
  const backbones::Normalized victim{backbones::ResNet18<task>{.width = work.width}, normalizations::cifar10};
  victim.module->eval();
  return victim;
}

/// Makes the defense as the authors' code does.
auto defense_of(const Work& work) {
  return Pipeline{
      transforms::UNet<task>{.width = work.width, .activation = transforms::OutputActivation::clamp},
      freeze(victim_of(work)), remaps::Derangement<task>{}, PixelDomain::reference};
}

/// Returns the images, which are made once: `work` is the same in the whole program.
const data::Dataset& images_of(const Work& work) {
  // The authors' loader prepares eight batches ahead. With that many more batches, it works during
  // the timed steps, too.
  static const data::Dataset dataset = [&] {
    const std::int64_t images = std::max<std::int64_t>((work.steps + 10) * work.batch, work.epoch_images);
    return data::Synthetic{.task = task, .train = images, .test = 1}.make().train;
  }();
  return dataset;
}

Recipe recipe_of(const Work& work, Precision precision) {
  Recipe recipe = recipes::paper;
  recipe.optimization.batch_size = work.batch;
  recipe.optimization.epochs = 1;
  recipe.optimization.precision = precision;
  return recipe;
}

/// An observer of `fit` that records the time of each step.
struct StepTimes {
  Clock clock = {};
  std::vector<double> seconds = {};
  void on_step(const StepInfo&) { seconds.push_back(clock.take()); }
};

/// The outputs of a forward pass.
struct Forward {
  at::Tensor teacher, rewritten, remapped;
};

at::Tensor loss_of(const Forward& forward, const Recipe& recipe) {
  const objectives::SupCon supcon{.temperature = recipe.supcon_temperature,
                                  .base_temperature = recipe.supcon_temperature};
  return objectives::Bce{}(forward.remapped, forward.teacher) +
         recipe.supcon_weight * supcon(forward.rewritten, forward.teacher.argmax(1));
}

/// Times each of the calls that `fit` makes.
template <typename Defense>
void measure_parts(const Defense& defense, const at::Tensor& bytes, const Work& work, Precision precision,
                   Seconds& seconds) {
  const Recipe recipe = recipe_of(work, precision);
  const at::Device device = default_device();
  auto& module = *defense.transform().module;
  module.train();
  detail::Optimizers optimizers(module, recipe.optimization);
  const at::Tensor source = bytes.to(device);
  for (std::int64_t step = 0; step <= work.steps; ++step) {
    Seconds taken;
    Clock clock;
    at::Tensor images = data::to_float(source.narrow(0, step * work.batch, work.batch), device);
    images = data::augment(images, recipe.augmentation, static_cast<std::uint64_t>(step))
                 .contiguous(at::MemoryFormat::ChannelsLast);
    taken["batch"] = {clock.take()};
    Forward forward;
    {
      const nn::Autocast lower(device, detail::uses_bfloat16(precision, device));
      {
        c10::NoGradGuard no_grad;
        forward.teacher = defense.undefended(images).to(at::kFloat);
      }
      taken["teacher"] = {clock.take()};
      forward.rewritten = defense.transformed(images).to(at::kFloat);
      taken["transform, forward"] = {clock.take()};
      forward.remapped = defense.classify_transformed(forward.rewritten).to(at::kFloat);
      taken["victim, forward"] = {clock.take()};
    }
    const at::Tensor loss = loss_of(forward, recipe);
    taken["losses"] = {clock.take()};
    optimizers.zero_grad();
    loss.backward();
    taken["backward"] = {clock.take()};
    optimizers.step();
    taken["optimiser"] = {clock.take()};
    if (step > 0) append(seconds, taken);
  }
  module.eval();
}

/// Times the defended forward pass.
template <typename Defense>
void measure_inference(const Defense& defense, const at::Tensor& bytes, const Work& work, Precision precision,
                       Seconds& seconds) {
  const at::Device device = default_device();
  const auto serving = freeze(defense);
  const at::Tensor images =
      data::to_float(bytes.narrow(0, 0, work.batch), device).contiguous(at::MemoryFormat::ChannelsLast);
  c10::NoGradGuard no_grad;
  const nn::Autocast lower(device, detail::uses_bfloat16(precision, device));
  for (int i = 0; i <= work.steps; ++i) {
    Clock clock;
    (void)serving.forward(images);
    const double taken = clock.take();
    if (i > 0) seconds["inference"].push_back(taken);
  }
}

}  // namespace

std::vector<std::int64_t> permutation(const Work& work) {
  return defense_of(work).remap().permutation;
}

double write_start(const Work& work, const std::filesystem::path& folder) {
  const auto& dataset = images_of(work);
  const at::Tensor bytes = dataset.images.contiguous();
  files::write(folder / "images.bin", {static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()});
  auto defense = defense_of(work);
  defense.to(at::kCPU);
  const auto tensors = [](const torch::nn::Module& module) {
    auto state = nn::state_dict(module);
    std::erase_if(state, [](const auto& item) { return item.second.dim() == 0; });  // counters of batches
    return formats::SafeTensors{std::move(state), {}};
  };
  formats::write_safetensors(folder / "victim.safetensors", tensors(*victim_of(work).module));
  formats::write_safetensors(folder / "transform.safetensors", tensors(*defense.transform().module));

  defense.transform().module->train();
  c10::NoGradGuard no_grad;
  const at::Tensor images = data::to_float(bytes.narrow(0, 0, work.batch));
  const at::Tensor rewritten = defense.transformed(images);
  return loss_of({defense.undefended(images), rewritten, defense.classify_transformed(rewritten)},
                 recipe_of(work, Precision::float32))
      .item<double>();
}

Seconds measure(const Work& work, Precision precision) {
  auto defense = defense_of(work);
  const auto& dataset = images_of(work);
  const at::Tensor images =
      dataset.images.narrow(0, 0, (work.steps + 1) * work.batch);  // one step to warm up
  const auto last_steps = [&](const Recipe& recipe) {
    StepTimes steps;
    fit(defense, images, recipe, steps);
    return std::vector<double>(steps.seconds.end() - work.steps, steps.seconds.end());
  };
  Recipe recipe = recipe_of(work, precision);
  Seconds seconds;
  seconds["step"] = last_steps(recipe);
  recipe.teacher = TeacherInput::original;
  recipe.optimization.epochs = 2;
  seconds["step, victim asked once"] = last_steps(recipe);
  measure_parts(defense, dataset.images, work, precision, seconds);
  measure_inference(defense, dataset.images, work, precision, seconds);
  if (work.epoch_images > 0) {
    const auto second_epoch = [&](TeacherInput teacher) {
      recipe.teacher = teacher;
      History history;
      fit(defense, dataset.images.narrow(0, 0, work.epoch_images), recipe, history);
      return std::vector{history.epochs[1].seconds - history.epochs[0].seconds};
    };
    seconds["epoch"] = second_epoch(TeacherInput::augmented);
    seconds["epoch, victim asked once"] = second_epoch(TeacherInput::original);
  }
  return seconds;
}

}  // namespace refine::versus
