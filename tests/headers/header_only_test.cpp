// The header-only library: this file is compiled without REFINE_COMPILED_LIB and contains all definitions. Several
// such files of a program can be linked if all of them are inline.

#include <ATen/ops/allclose.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/rand.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <cstdio>
#include <memory>
#include <sstream>
#include <string>

#include <refine/attacks/by_name.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/formats/formats.hpp>
#include <refine/programs/exported_program.hpp>
#include <refine/programs/torchscript.hpp>
#include <refine/refine.hpp>
#include <refine/report/report.hpp>
#include <refine/training/recipe.hpp>
#include <refine/winograd/convolution.hpp>

#if defined(REFINE_COMPILED_LIB)
#error "compile this test without REFINE_COMPILED_LIB"
#endif

namespace refine {
namespace {

TEST(HeaderOnly, Program_Runs) {
  const at::Tensor x = at::rand({2, 16, 8, 8}), weight = at::rand({16, 16, 3, 3});
  if (!winograd::takes(x, weight)) GTEST_SKIP() << "this processor has no Winograd convolution";
  EXPECT_TRUE(
      at::allclose(winograd::convolution(x, weight, {}), at::conv2d(x, weight, {}, 1, 1), 1e-3, 1e-3));
}

// nm prints "address type name". A lower-case type is local to this file, W, V and u are merged by the linker; any
// other is defined once and would clash with that of a second file.
TEST(HeaderOnly, Definitions_AreInline) {
  std::unique_ptr<FILE, int (*)(FILE*)> nm(
      ::popen(("nm -C --defined-only /proc/" + std::to_string(::getpid()) + "/exe").c_str(), "r"), &::pclose);
  ASSERT_TRUE(nm);
  std::string lines;
  std::array<char, 1 << 16> buffer;
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), nm.get())) {
    lines.append(buffer.data(), n);
  }
  std::istringstream in(lines);
  std::string clashing;
  int merged = 0;
  for (std::string address, type, name; in >> address >> type && std::getline(in >> std::ws, name);) {
    if (name.find("refine::") == std::string::npos) continue;
    if (type == "W" || type == "V" || type == "u") {
      ++merged;
    } else if (std::isupper(static_cast<unsigned char>(type[0]))) {
      clashing += type + " " + name + "\n";
    }
  }
  EXPECT_EQ(clashing, "");
  EXPECT_GT(merged, 100);
}

}  // namespace
}  // namespace refine
