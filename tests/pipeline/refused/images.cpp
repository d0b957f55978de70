// expect-error: Pipeline: the transform rewrites 3x224x224 images, but the backbone takes 3x32x32; give both the same Task
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

using namespace refine;

constexpr Task large = {ImageShape{3, 224, 224}, 10};

auto defend(const backbones::ResNet18<tasks::cifar10>& victim) {
  return Pipeline{transforms::UNet<large>{}, freeze(victim), remaps::Derangement<large>{}};
}
