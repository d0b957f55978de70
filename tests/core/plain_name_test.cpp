#include <refine/core/text.hpp>

#include <gtest/gtest.h>

namespace refine {
namespace {

TEST(PlainName, Spellings_AreEqual) {
  EXPECT_EQ(text::plain_name("Adaptive-Patch"), "adaptivepatch");
  EXPECT_EQ(text::plain_name("RES_NET-18"), "resnet18");
  EXPECT_EQ(text::plain_name("-_"), "");
  EXPECT_EQ(text::plain_name("a b.c"), "a b.c");
}

TEST(SameName, OtherOrEmptyNames_Differ) {
  EXPECT_TRUE(text::same_name("vgg-16", "VGG16"));
  EXPECT_TRUE(text::same_name("label_consistent", "LabelConsistent"));
  EXPECT_FALSE(text::same_name("ResNet18", "ResNet50"));
  EXPECT_FALSE(text::same_name("", ""));
  EXPECT_FALSE(text::same_name("-", ""));
}

}  // namespace
}  // namespace refine
