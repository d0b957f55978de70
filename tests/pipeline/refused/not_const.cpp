// expect-error: required for the satisfaction of 'DescribeFits<T>' [with T = Gain]
// expect-error: required for the satisfaction of 'Transform<T>' [with T = Gain]
// expect-error: no operand of the disjunction is satisfied
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

#include <string>

using namespace refine;

struct Gain : transforms::None<tasks::cifar10.image> {
  double gain = 1;
  std::string describe() { return std::to_string(gain); }
};

auto defend(const backbones::ResNet18<tasks::cifar10>& victim) {
  return Pipeline{Gain{}, freeze(victim), remaps::Derangement<tasks::cifar10>{}};
}
