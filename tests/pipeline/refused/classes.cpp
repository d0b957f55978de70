// expect-error: Pipeline: the remap renames 50 classes, but the backbone predicts 10; give both the same Task
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

using namespace refine;

constexpr Task fifty = {tasks::cifar10.image, 50};

auto defend(const backbones::ResNet18<tasks::cifar10>& victim) {
  return Pipeline{transforms::UNet<tasks::cifar10>{}, freeze(victim), remaps::Derangement<fifty>{}};
}
