#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <mutex>
#include <utility>

namespace refine::nn {

namespace detail {

/// One for the process, whatever `with_torch_seed` makes: the generator is the process's, too. Recursive, since what
/// it makes may call `with_torch_seed`.
inline std::recursive_mutex& seeded_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

/// A generator that is seeded as long as this lives, and has its old state afterwards.
class SeededGenerator {
 public:
  SeededGenerator(at::Generator generator, std::uint64_t seed) : generator_(std::move(generator)) {
    const std::lock_guard lock(generator_.mutex());
    state_ = generator_.get_state();
    generator_.set_current_seed(seed);
  }

  SeededGenerator(const SeededGenerator&) = delete;
  SeededGenerator& operator=(const SeededGenerator&) = delete;

  ~SeededGenerator() {
    const std::lock_guard lock(generator_.mutex());
    generator_.set_state(state_);
  }

 private:
  at::Generator generator_;
  at::Tensor state_;
};

}  // namespace detail

/// Runs `make` with LibTorch's default host generator seeded, and puts the generator's state back: the same
/// seed gives the same initial weights, and nobody else's draws move. Modules are made on the host. Calls from
/// several threads take turns; a thread that draws without `with_torch_seed` meanwhile disturbs both.
template <typename Make>
auto with_torch_seed(std::uint64_t seed, Make&& make) {
  const std::lock_guard lock(detail::seeded_mutex());
  const detail::SeededGenerator seeded_generator(at::detail::getDefaultCPUGenerator(), seed);
  return std::forward<Make>(make)();
}

/// LibTorch's default generator of a device, which dropout draws from, while it is seeded by the step: so
/// training depends on its own seed alone, and on no draws made before. Gives the generator its old state
/// back in the end. The generator is the process's: who draws from it in another thread meanwhile disturbs
/// both.
class ScopedTorchSeed {
 public:
  explicit ScopedTorchSeed(at::Device device) : generator_(at::globalContext().defaultGenerator(device)) {
    const std::lock_guard lock(generator_.mutex());
    state_ = generator_.get_state();
  }

  ScopedTorchSeed(const ScopedTorchSeed&) = delete;
  ScopedTorchSeed& operator=(const ScopedTorchSeed&) = delete;

  ~ScopedTorchSeed() {
    const std::lock_guard lock(generator_.mutex());
    generator_.set_state(state_);
  }

  void seed(std::uint64_t seed) {
    const std::lock_guard lock(generator_.mutex());
    generator_.set_current_seed(seed);
  }

 private:
  at::Generator generator_;
  at::Tensor state_;
};

}  // namespace refine::nn
