#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <mutex>
#include <utility>

namespace refine::nn {

/// Runs `make` with LibTorch's default host generator seeded, and puts the generator's state back: the same
/// seed gives the same initial weights, and nobody else's draws move. Modules are made on the host.
template <typename Make>
auto seeded(std::uint64_t seed, Make&& make) {
  static std::recursive_mutex one_at_a_time;  // the generator is the process's; `make` may come back here
  const std::lock_guard lock(one_at_a_time);
  const at::Generator& generator = at::detail::getDefaultCPUGenerator();
  struct Restore {
    at::Generator generator;
    at::Tensor state;
    ~Restore() { generator.set_state(state); }
  } restore{generator, generator.get_state()};
  at::Generator(generator).set_current_seed(seed);
  return std::forward<Make>(make)();
}

}  // namespace refine::nn
