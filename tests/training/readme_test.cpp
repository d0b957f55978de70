// The examples of refine/training/README.md.

#include <ATen/ops/multi_margin_loss.h>
#include <gtest/gtest.h>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/data/sources.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/unet.hpp>

namespace training_readme {

using namespace refine;

namespace {

constexpr Task task{ImageShape{3, 16, 16}, 4};

/// Keeps the best epoch.
struct Best {
  EpochInfo best;
  void on_epoch(const EpochInfo& info) {
    if (info.accuracy >= best.accuracy) best = info;
  }
};

TEST(TrainingReadme, UsersObserver_IsCalled) {
  const auto train = data::Synthetic{.task = task, .train = 64, .test = 0}.make().train;
  Pipeline defense{transforms::UNet<task>{.levels = 2, .width = 4},
                   freeze(backbones::ResNet18<task>{.width = 4}), remaps::Derangement<task>{}};
  Recipe recipe = recipes::fast;
  recipe.optimization.epochs = 2;

  Best best;
  History history;
  fit(defense, train.images, recipe, best, history);

  EXPECT_EQ(history.epochs.size(), 2u);
  EXPECT_GT(best.best.epoch, 0);
}

/// Hinge loss: the logit of the teacher's class must lead by 1.
struct Margin {
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    return at::multi_margin_loss(remapped, teacher.argmax(1));
  }
};

TEST(TrainingReadme, UsersObjective_IsTrainedTowards) {
  const auto train = data::Synthetic{.task = task, .train = 64, .test = 0}.make().train;
  Pipeline defense{transforms::UNet<task>{.levels = 2, .width = 4},
                   freeze(backbones::ResNet18<task>{.width = 4}), remaps::Derangement<task>{}};
  History history;
  Recipe recipe = recipes::fast;
  recipe.optimization.epochs = 2;

  fit(defense, train.images, Margin{}, recipe, history);

  EXPECT_EQ(history.epochs.size(), 2u);
}

}  // namespace

}  // namespace training_readme
