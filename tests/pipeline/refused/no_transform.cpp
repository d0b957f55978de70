// expect-error: required for the satisfaction of 'Transform<T>' [with T = Blur]
// expect-error: the required expression 't.forward(images)' is invalid
// expect-error: the required expression '* t.module' is invalid
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

using namespace refine;

struct Blur {
  ImageShape image = {3, 32, 32};
  at::Tensor operator()(const at::Tensor& images) const { return images; }
};

auto defend(const backbones::ResNet18<tasks::cifar10>& victim) {
  return Pipeline{Blur{}, freeze(victim), remaps::Derangement<tasks::cifar10>{}};
}
