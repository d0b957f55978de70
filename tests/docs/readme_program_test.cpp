// Compiles and links the README's first program as readme_main. Does not run it: it needs CIFAR-10
// and an hour.

#include <gtest/gtest.h>

int readme_main();

namespace {

TEST(Readme, Program_CompilesAndLinks) {
  int (*volatile program)() = &readme_main;
  EXPECT_NE(program, nullptr);
}

}  // namespace
