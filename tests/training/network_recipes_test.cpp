#include <gtest/gtest.h>

#include <refine/training/recipe.hpp>
#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

/// The paper: SGD for 150 epochs at 0.1, at 0.01 for VGG-16 and at 0.001 for ViT.
TEST(PaperClassifierOf, AnySpelling_GivesThePapersRecipe) {
  for (const char* name : {"ResNet18", "resnet-50", "DenseNet121", "inception_v3", "PreActResNet18"})
    EXPECT_EQ(recipes::paper_classifier_of(name), recipes::paper_classifier) << name;
  for (const char* name : {"VGG16", "vgg-16", "Vgg_16", "VGG19", "vgg19_bn"}) {
    ClassifierRecipe slower = recipes::paper_classifier;
    slower.optimization.lr = 0.01;
    EXPECT_EQ(recipes::paper_classifier_of(name), slower) << name;
    EXPECT_EQ(recipes::fast_classifier_of(name), recipes::fast_classifier) << name;
  }
  for (const char* name : {"ViT", "vit", "VI-T"}) {
    EXPECT_EQ(recipes::paper_classifier_of(name).optimization.lr, 0.001) << name;
    EXPECT_EQ(recipes::paper_classifier_of(name).optimization.epochs, 150) << name;
    const Optimization fast = recipes::fast_classifier_of(name).optimization;
    EXPECT_EQ(fast.optimizer, OptimizerKind::adam) << name;
    EXPECT_EQ(fast.lr, 0.001) << name;
    EXPECT_EQ(fast.epochs, 15) << name;
  }
  EXPECT_EQ(recipes::fast_classifier_of("resnet18"), recipes::fast_classifier);
}

TEST(PaperClassifierOf, UnknownNetwork_IsRefused) {
  for (const char* name : {"ResNet34", "", "-"}) {
    expect_words(error_of([&] { recipes::paper_classifier_of(name); }), {"unknown network", "VGG16"});
    expect_words(error_of([&] { recipes::fast_classifier_of(name); }), {"unknown network", "ViT"});
  }
}

}  // namespace
}  // namespace refine
