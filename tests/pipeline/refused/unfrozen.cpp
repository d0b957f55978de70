// expect-error: Pipeline: the backbone can still be trained; pass freeze(victim)
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

using namespace refine;

auto defend(const backbones::ResNet18<tasks::cifar10>& victim) {
  return Pipeline{transforms::UNet<tasks::cifar10>{}, victim, remaps::Derangement<tasks::cifar10>{}};
}
