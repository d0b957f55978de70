// The file of a service: a pipeline that classifies.

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

at::Tensor classify(const refine::backbones::ResNet18<refine::tasks::cifar10>& victim,
                    const at::Tensor& images) {
  using namespace refine;
  constexpr Task task = tasks::cifar10;
  const auto defense = Pipeline{transforms::UNet<task>{}, freeze(victim), remaps::Derangement<task>{}};
  return defense.forward(images);
}
