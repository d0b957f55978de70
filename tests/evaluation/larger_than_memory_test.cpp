// Reads, poisons, trains on and evaluates a dataset that need not fit into memory, and measures the
// memory that belongs to the process alone.

#include <ATen/ops/avg_pool2d.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <torch/nn/modules/linear.h>
#include <refine/attacks/by_name.hpp>
#include <refine/data/image_folder.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/training/train_classifier.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/data/image_bytes.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

constexpr Task task{ImageShape{1, 256, 256}, 2};

/// Returns the anonymous memory of the process in bytes; 0 if the system does not report it.
std::int64_t anonymous_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8)) * 1024;
  }
  return 0;
}

/// Measures the peak of the anonymous memory during its lifetime.
class PeakMemory {
 public:
  std::int64_t bytes() const { return bytes_; }

 private:
  std::atomic<std::int64_t> bytes_ = 0;
  std::jthread watcher_{[this](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      bytes_ = std::max<std::int64_t>(bytes_, anonymous_memory());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }};
};

/// A linear classifier on the means of 32×32 squares.
struct LinearOnMeans {
  static constexpr Task static_task = refine::task;
  Task task = refine::task;
  torch::nn::Linear layer{64, 2};
  std::shared_ptr<torch::nn::Module> module = layer.ptr();
  at::Tensor forward(const at::Tensor& images) const {
    return const_cast<torch::nn::Linear&>(layer)->forward(at::avg_pool2d(images, {32, 32}).flatten(1));
  }
};

TEST(LargerThanMemory, Dataset_IsReadPoisonedTrainedOnAndEvaluated) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer keeps freed memory for a while";
#endif
  // Else glibc keeps freed buffers of some sizes, more or fewer as threads happen to run.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  if (anonymous_memory() == 0) GTEST_SKIP() << "the system does not report the memory of a process";
  const testing::ScratchFolder scratch;
  constexpr int n = 1200;
  constexpr std::int64_t decoded = std::int64_t{n} * 256 * 256;
  std::vector<std::string> shades;
  for (int i = 0; i < 16; ++i) {
    const auto v = static_cast<std::uint8_t>(16 * i);
    shades.push_back(testing::jpeg(256, 256, {v, v, v}));
  }
  for (int i = 0; i < n; ++i) scratch.write(fmt::format("train/{}/{:04}.jpg", i % 2, i), shades[i / 2 % 16]);
  std::filesystem::create_directory_symlink(scratch.path / "train", scratch.path / "test");

  const std::int64_t before = anonymous_memory();
  const PeakMemory peak;
  const auto [train, test] = data::image_folders(
      scratch.path, {.image = {1, 256, 256}, .store = scratch.path / "store", .threads = 2});
  const attacks::BadNets<task> attack{.target = 1, .rate = 0.02};
  const auto poisoned = attack.poison(train);
  auto recipe = recipes::fast_classifier;
  recipe.optimization.epochs = 1;
  recipe.optimization.batch_size = 16;
  recipe.augmentation = {};
  const LinearOnMeans victim = train_classifier(LinearOnMeans{}, poisoned, recipe);
  const metrics::AttackMetrics figures = evaluate(victim, test, attack);

  EXPECT_EQ(train.size() + test.size(), 2 * n);
  EXPECT_EQ(poisoned.indices.size(), n / 50u);
  EXPECT_EQ(figures.ba.n, n);
  EXPECT_EQ(figures.asr.n, n / 2);
  // Four sets were used: training images, poisoned images, test images, triggered images.
  const std::int64_t grown = peak.bytes() - before;
  EXPECT_LT(grown, decoded * 3 / 4) << "of " << decoded << " bytes per set";
  RecordProperty("grown", std::to_string(grown));
}

}  // namespace
}  // namespace refine
