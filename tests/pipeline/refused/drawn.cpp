// expect-error: Pipeline: the transform draws 1x96x96 images, but the backbone takes 3x32x32; give both the same channels
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

using namespace refine;

struct Grey : transforms::UNet<tasks::cifar10> {
  static constexpr ImageShape output_shape = {1, 96, 96};
};

auto defend(const backbones::ResNet18<tasks::cifar10>& victim) {
  return Pipeline{Grey{}, freeze(victim), remaps::Derangement<tasks::cifar10>{}};
}
