// Training when an allocation fails: LibTorch's allocator on the host is replaced by one with a limit.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/data/sources.hpp>
#include <refine/nn/device.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/unet.hpp>
#include <tests/training/task.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

/// Refuses what would exceed a limit, with the text of LibTorch's own allocator, and knows the peak.
class LimitedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (used + bytes > limit) {
      TORCH_CHECK(false, "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", bytes,
                  " bytes. Error code 12 (Cannot allocate memory)");
    }
    void* block = std::aligned_alloc(header, (bytes / header + 2) * header);
    if (!block) throw std::bad_alloc();
    *static_cast<std::size_t*>(block) = bytes;
    used += bytes;
    peak = std::max(peak, used);
    void* data = static_cast<std::byte*>(block) + header;
    return {data, data, &release, at::Device(at::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }

  static inline std::size_t used = 0, peak = 0, limit = 0;  // the tests have one thread

 private:
  static constexpr std::size_t header = 64;

  static void release(void* data) {
    void* block = static_cast<std::byte*>(data) - header;
    used -= *static_cast<std::size_t*>(block);
    std::free(block);
  }
};

/// Installs the allocator while it lives.
struct ScopedLimit {
  explicit ScopedLimit(std::size_t limit) {
    LimitedAllocator::peak = LimitedAllocator::used;
    LimitedAllocator::limit = LimitedAllocator::used + limit;
    static LimitedAllocator allocator;  // tensors may outlive this object
    c10::SetAllocator(at::kCPU, &allocator);
  }
  ScopedLimit(const ScopedLimit&) = delete;
  ~ScopedLimit() { c10::SetAllocator(at::kCPU, c10::GetDefaultCPUAllocator()); }
};

constexpr std::size_t no_limit = std::size_t{1} << 40;

const data::Dataset& images_of_memory_test() {
  static const data::Dataset set = [] {
    use_threads(1);
    return data::Synthetic{.task = task, .train = 96, .test = 0}.make().train;
  }();
  return set;
}

Recipe recipe_of_memory_test() {
  return {.teacher = TeacherInput::original,
          .head_weight = 0.5,
          .supcon_weight = 0.1,
          .optimization = {.optimizer = OptimizerKind::sgd, .lr = 0.05, .batch_size = 32, .epochs = 2},
          .augmentation = {.flip = true}};
}

struct Warnings {
  std::vector<std::string> lines;
  void on_warning(std::string_view text) { lines.emplace_back(text); }
};

struct MemoryRun {
  std::map<std::string, at::Tensor> state;
  std::vector<std::string> warnings;
  std::size_t peak;
};

MemoryRun run_with(std::size_t limit) {
  const data::Dataset& set = images_of_memory_test();
  auto defense = Pipeline{transforms::UNet<task>{.levels = 2, .width = 4},
                          freeze(backbones::ResNet18<task>{.width = 16}), remaps::Derangement<task>{}};
  Warnings warnings;
  const std::size_t before = LimitedAllocator::used;
  const ScopedLimit scoped(limit);
  fit(defense, set.images, recipe_of_memory_test(), warnings);
  return {nn::state_dict(*defense.transform().module), warnings.lines, LimitedAllocator::peak - before};
}

TEST(OutOfMemory, Fit_ComputesActivationsTwice_WithWholeBatchesAndTheSameStatistics) {
  const MemoryRun whole = run_with(no_limit);
  EXPECT_TRUE(whole.warnings.empty());
  const MemoryRun in_parts = run_with(whole.peak * 6 / 10);
  ASSERT_EQ(in_parts.warnings.size(), 1U);
  expect_words(in_parts.warnings[0], {"memory", "twice"});
  EXPECT_LE(in_parts.peak, whole.peak * 6 / 10);
  ASSERT_EQ(whole.state.size(), in_parts.state.size());
  for (const auto& [name, tensor] : whole.state) {
    // num_batches_tracked is equal: each step has updated the statistics once.
    EXPECT_TRUE(tensor.allclose(in_parts.state.at(name), 1e-3, 1e-4)) << name;
  }
}

TEST(OutOfMemory, Fit_StillTooLarge_NamesASmallerBatch) {
  try {
    run_with(1'000'000);
    ADD_FAILURE() << "it must not fit";
  } catch (const OutOfMemory& error) {
    EXPECT_EQ(error.batch(), 32);
    EXPECT_EQ(error.step(), 0);
    expect_words(error.what(), {"defense", "not enough memory", "32", "--batch_size", "16"});
  }
}

/// Throws as LibTorch does on a device, in one call.
struct FailingOnce {
  mutable int calls = 0;
  int fails_at;
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    TORCH_CHECK_WITH(OutOfMemoryError, ++calls != fails_at, "CUDA out of memory.");
    return objectives::Bce{}(remapped, teacher);
  }
};

TEST(OutOfMemory, Fit_FailsInALaterStep_GoesOnWithThatStep) {
  const data::Dataset& set = images_of_memory_test();
  const auto train = [&](int fails_at, Warnings& warnings) {
    auto defense = Pipeline{transforms::UNet<task>{.levels = 2, .width = 4},
                            freeze(backbones::ResNet18<task>{.width = 4}), remaps::Derangement<task>{}};
    fit(defense, set.images, FailingOnce{.fails_at = fails_at}, recipe_of_memory_test(), warnings);
    return nn::state_dict(*defense.transform().module);
  };
  Warnings none, one;
  const auto whole = train(0, none), failed = train(3, one);
  EXPECT_TRUE(none.lines.empty());
  EXPECT_EQ(one.lines.size(), 1U);
  for (const auto& [name, tensor] : whole) {
    EXPECT_TRUE(tensor.allclose(failed.at(name), 1e-3, 1e-4)) << name;
    if (!tensor.is_floating_point()) {
      EXPECT_TRUE(tensor.equal(failed.at(name))) << name;
    }
  }
}

TEST(OutOfMemory, TrainClassifier_NamesASmallerBatch) {
  const data::Dataset& set = images_of_memory_test();
  const auto run = [&] {
    backbones::ResNet18<task> network{.width = 4};
    const ScopedLimit scoped(1'000'000);
    train_classifier(network, set, {.optimization = {.lr = 0.05, .batch_size = 32, .epochs = 1}});
  };
  EXPECT_THROW(run(), OutOfMemory);
  expect_words(error_of(run), {"victim", "not enough memory", "32", "16 or less"});
}

TEST(OutOfMemory, OtherErrors_AreNotMistakenForIt) {
  const auto is_memory = [](auto&& fail) {
    try {
      fail();
    } catch (const std::exception& error) {
      return nn::is_out_of_memory(error);
    }
    return false;
  };
  EXPECT_TRUE(is_memory([] { throw std::bad_alloc(); }));
  EXPECT_TRUE(is_memory([] { TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory."); }));
  EXPECT_TRUE(
      is_memory([] { TORCH_CHECK(false, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."); }));
  EXPECT_TRUE(is_memory([] { at::empty({std::int64_t{1} << 46}, at::kByte); }))
      << "the real allocator's text";
  EXPECT_TRUE(is_memory([] { throw std::runtime_error("could not create a primitive"); })) << "oneDNN's text";
  EXPECT_FALSE(is_memory([] {
    throw std::runtime_error("could not create a primitive descriptor for the matmul primitive");
  })) << "unsupported, not too large";
  EXPECT_FALSE(is_memory([] { TORCH_CHECK(false, "shapes differ"); }));
  EXPECT_FALSE(is_memory([] { throw Error("cannot allocate a name"); }));
}

}  // namespace
}  // namespace refine
