// Compiles and links the first programs of the README and of the guides. Does not run them: they need data
// sets, and up to an hour.

#include <gtest/gtest.h>

int clusters_main();
int from_cpp_main();
int readme_main();

namespace {

TEST(Pages, Programs_CompileAndLink) {
  for (int (*volatile program)() : {&clusters_main, &from_cpp_main, &readme_main})
    EXPECT_NE(program, nullptr);
}

}  // namespace
