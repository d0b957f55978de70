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

/// Seeds LibTorch's default generator of a device repeatedly, and restores its state when it is
/// destroyed.
///
/// Dropout draws from this generator. Training seeds it in each step, so that the result depends on
/// the training's seed and not on earlier draws. The generator belongs to the process: a thread
/// that draws from it at the same time affects both.
class ScopedTorchSeed {
 public:
  /// Remembers the state of the default generator of `device`.
  explicit ScopedTorchSeed(at::Device device)
      : ScopedTorchSeed(at::globalContext().defaultGenerator(device)) {}

  /// Remembers the state of `generator`.
  explicit ScopedTorchSeed(at::Generator generator) : generator_(std::move(generator)) {
    const std::lock_guard lock(generator_.mutex());
    state_ = generator_.get_state();
  }

  ScopedTorchSeed(const ScopedTorchSeed&) = delete;
  ScopedTorchSeed& operator=(const ScopedTorchSeed&) = delete;

  ~ScopedTorchSeed() {
    const std::lock_guard lock(generator_.mutex());
    generator_.set_state(state_);
  }

  /// Seeds the generator.
  void seed(std::uint64_t seed) {
    const std::lock_guard lock(generator_.mutex());
    generator_.set_current_seed(seed);
  }

 private:
  at::Generator generator_;
  at::Tensor state_;
};

namespace detail {

/// Returns the mutex of `with_torch_seed`. One for the process, like the generator; recursive,
/// since the function that is run may call `with_torch_seed` itself.
inline std::recursive_mutex& torch_seed_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

}  // namespace detail

/// Runs a function with LibTorch's default generator of the host seeded, and restores the
/// generator's state.
///
/// The same seed gives the same initial weights, and other draws are not affected. Calls from
/// several threads take turns; a thread that draws without `with_torch_seed` at the same time
/// affects both.
/// \param seed of the generator
/// \param make the function, such as one that constructs a module (on the host)
/// \return what `make` returns
template <typename Make>
auto with_torch_seed(std::uint64_t seed, Make&& make) {
  const std::lock_guard lock(detail::torch_seed_mutex());
  ScopedTorchSeed scope(at::detail::getDefaultCPUGenerator());
  scope.seed(seed);
  return std::forward<Make>(make)();
}

}  // namespace refine::nn
