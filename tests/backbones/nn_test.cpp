#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/nn/modules/linear.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <limits>
#include <thread>

#include <refine/nn/device.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::nn {
namespace {

bool wait_for(const std::atomic<bool>& flag, std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  while (!flag && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  return flag;
}

/// Two lambdas have two types; they must exclude each other nevertheless.
TEST(WithTorchSeed, TwoThreads_ExcludeEachOther) {
  const at::Tensor one = with_torch_seed(1, [] { return at::rand({4}); }),
                   two = with_torch_seed(2, [] { return at::rand({4}); });
  const at::Tensor before = at::rand({1});
  std::atomic<bool> first_entered = false, second_entered = false, overlap = false;
  at::Tensor first, second;
  std::thread thread([&] {
    first = with_torch_seed(1, [&] {
      first_entered = true;
      overlap = wait_for(second_entered, std::chrono::milliseconds(200));
      return at::rand({4});
    });
  });
  EXPECT_TRUE(wait_for(first_entered, std::chrono::seconds(20)));
  second = with_torch_seed(2, [&] {
    second_entered = true;
    return at::rand({4});
  });
  thread.join();
  EXPECT_FALSE(overlap);
  EXPECT_TRUE(first.equal(one));
  EXPECT_TRUE(second.equal(two));
}

TEST(WithTorchSeed, Nested_RestoresTheOuterGenerator) {
  const auto draw_around = [](auto&& between) {
    return with_torch_seed(1, [&] {
      at::rand({3});
      between();
      return at::rand({3});
    });
  };
  const at::Tensor alone = draw_around([] {});
  EXPECT_TRUE(draw_around([] { with_torch_seed(7, [] { return at::rand({5}); }); }).equal(alone));
}

/// Also meant for a thread sanitizer: one thread reads the device that another one sets.
TEST(DefaultDevice, ConcurrentUseDevice_IsSafe) {
  const at::Device before = default_device();
  std::atomic<bool> done = false;
  std::thread chooser([&] {
    for (int i = 0; i < 2000; ++i) use_device(i % 2 == 0 ? "cpu" : "auto");
    done = true;
  });
  const bool has_cuda = torch::cuda::is_available();
  while (!done) {
    const at::Device device = default_device();
    EXPECT_TRUE(device.is_cpu() || (has_cuda && device.is_cuda()));
  }
  chooser.join();
  EXPECT_EQ(default_device(), before);
}

struct Buffers : torch::nn::Module {
  explicit Buffers(at::Device device) { register_buffer("x", at::zeros({2}, at::TensorOptions(device))); }
};

TEST(DeviceOf, Module_IsTheDeviceOfParametersOtherwiseOfBuffers) {
  EXPECT_EQ(device_of(torch::nn::LinearImpl(2, 2)), at::Device(at::kCPU));
  EXPECT_EQ(device_of(Buffers(at::kCPU)), at::Device(at::kCPU));
  EXPECT_EQ(device_of(Buffers(at::kMeta)), at::Device(at::kMeta));
  EXPECT_EQ(device_of(torch::nn::Module()), std::nullopt);
  struct Deep : torch::nn::Module {
    Deep() { register_module("child", std::make_shared<Buffers>(at::kMeta)); }
  };
  EXPECT_EQ(device_of(Deep()), at::Device(at::kMeta));
}

TEST(FreeMemory, Device_ReportsItsFreeMemory) {
  EXPECT_EQ(free_memory(at::kCPU), std::numeric_limits<std::size_t>::max());
  EXPECT_EQ(free_memory(at::kMeta), std::size_t{16} << 30) << "the meta device reports nothing";
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  const at::Device device(at::kCUDA, 0);
  const std::size_t before = free_memory(device);
  const at::Tensor large = at::zeros({1 << 28}, at::TensorOptions(device).dtype(at::kByte));
  EXPECT_LT(free_memory(device), before);
}

TEST(KeepFreedMemory, CLibrary_DecidesTheResult) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer replaces the allocator";
#elif defined(__GLIBC__)
  EXPECT_TRUE(keep_freed_memory());
#else
  EXPECT_FALSE(keep_freed_memory());
#endif
}

}  // namespace
}  // namespace refine::nn
