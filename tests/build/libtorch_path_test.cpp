// Programs may come from Bazel's cache, where another clone put them: they must find the LibTorch of this build.

#include <ATen/ops/ones.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace fs = std::filesystem;

namespace {

/// LibTorch's folder, by the library that this program has loaded.
fs::path loaded_libtorch() {
  Dl_info info{};
  const void* function = dlsym(RTLD_DEFAULT, "_ZN2at13globalContextEv");  // at::globalContext()
  if (function == nullptr || dladdr(function, &info) == 0) return {};
  return fs::canonical(info.dli_fname).parent_path().parent_path();
}

/// LibTorch's folder, by the headers that this build was configured with.
fs::path configured_libtorch() {
  // include/ATen/ATen.h in the runfiles, a link into LibTorch's own folder.
  const char* header = std::getenv("LIBTORCH_HEADER");
  return header == nullptr ? fs::path{} : fs::canonical(header).parent_path().parent_path().parent_path();
}

TEST(LinkedLibTorch, OfACachedProgram_IsTheOneOfThisBuild) {
  EXPECT_EQ(at::ones({2}).sum().item<float>(), 2);
  EXPECT_EQ(loaded_libtorch(), configured_libtorch());
}

}  // namespace
