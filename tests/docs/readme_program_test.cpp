// The README's first program is compiled and linked as readme_main. It is not run: it wants CIFAR-10 and an
// hour.

#include <gtest/gtest.h>

int readme_main();

namespace {

TEST(Readme, ProgramCompilesAndLinks) {
  int (*volatile program)() = &readme_main;
  EXPECT_NE(program, nullptr);
}

}  // namespace
