#pragma once

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <mutex>

namespace refine::nn {

/// LibTorch's default generator of a device, which dropout draws from, while it is seeded by the step: so
/// training depends on its own seed alone, and on no draws made before. Gives the generator its old state
/// back in the end. The generator is the process's: who draws from it in another thread meanwhile disturbs
/// both.
class Draws {
 public:
  explicit Draws(at::Device device) : generator_(at::globalContext().defaultGenerator(device)) {
    const std::lock_guard lock(generator_.mutex());
    state_ = generator_.get_state();
  }

  Draws(const Draws&) = delete;
  Draws& operator=(const Draws&) = delete;

  ~Draws() {
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
