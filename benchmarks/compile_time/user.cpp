// The file of a user, like the first program of the README.

#include <refine/refine.hpp>

refine::Evaluation attack_and_defend(const refine::data::Split& split) {
  using namespace refine;
  constexpr Task task = tasks::cifar10;
  const auto attack = attacks::BadNets<task>{.target = 0, .rate = 0.1};
  const auto victim = train_classifier(backbones::ResNet18<task>{}, attack.poison(split.train));
  auto defense = Pipeline{transforms::UNet<task>{}, freeze(victim), remaps::Derangement<task>{}};
  fit(defense, split.train.images, recipes::fast, ProgressBar{});
  export_torchscript(defense, "defended.pt");
  return evaluate(defense, split.test, attack);
}
