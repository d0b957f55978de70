#pragma once

#include <refine/evaluation/detail/inference_meters.hpp>

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Allocator.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/library.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/nn/conv.hpp>

namespace refine::detail {

/// Follows the memory of the tensors that this thread allocates and frees on one kind of device.
class TensorMemory final : public c10::MemoryReportingInfoBase {
 public:
  explicit TensorMemory(at::Device device) : device_(device) {}

  void reportMemoryUsage(void* /*pointer*/, std::int64_t bytes, std::size_t /*allocated*/,
                         std::size_t /*reserved*/, c10::Device device) override {
    if (device.type() != device_.type()) return;
    now_ += bytes;
    peak_ = std::max(peak_, now_);
  }

  bool memoryProfilingEnabled() const override { return true; }

  std::int64_t peak() const { return peak_; }

 private:
  at::Device device_;
  std::int64_t now_ = 0, peak_ = 0;
};

/// An operator whose multiply-adds are counted.
struct CountedOperator {
  enum class Kind { convolution, product, linear, attention };

  std::string_view name;
  Kind kind;
  std::size_t first;  ///< position of the first factor; the second one follows
};

inline constexpr CountedOperator counted_operators[] = {
    {"aten::convolution", CountedOperator::Kind::convolution, 0},
    {"aten::_convolution", CountedOperator::Kind::convolution, 0},
    {"aten::mm", CountedOperator::Kind::product, 0},
    {"aten::addmm", CountedOperator::Kind::product, 1},
    {"aten::bmm", CountedOperator::Kind::product, 0},
    {"aten::baddbmm", CountedOperator::Kind::product, 1},
    {"aten::mv", CountedOperator::Kind::product, 0},
    {"aten::addmv", CountedOperator::Kind::product, 1},
    {"aten::dot", CountedOperator::Kind::product, 0},
    {"aten::linear", CountedOperator::Kind::linear, 0},
    {"aten::scaled_dot_product_attention", CountedOperator::Kind::attention, 0},
};

/// The multiply-adds of one call: those that are known from its arguments, and those for each
/// number that it returns.
struct CallCost {
  std::int64_t known = 0, per_output = 0;
};

inline CallCost cost_of_call(const CountedOperator& op, c10::ArrayRef<c10::IValue> arguments) {
  const auto tensor = [&](std::size_t i) {
    const bool has = i < arguments.size() && arguments[i].isTensor();
    return has ? arguments[i].toTensor() : at::Tensor();
  };
  const at::Tensor a = tensor(op.first), b = tensor(op.first + 1);
  if (!a.defined() || !b.defined()) return {};
  switch (op.kind) {
    case CountedOperator::Kind::convolution: {
      constexpr std::size_t transposed = 6;
      const std::int64_t each = b.numel() / std::max<std::int64_t>(b.size(0), 1);
      if (arguments[transposed].toBool()) return {.known = a.numel() * each};
      return {.per_output = each};
    }
    case CountedOperator::Kind::product:
      return {.known = a.numel() * (b.dim() > 1 ? b.size(-1) : 1)};
    case CountedOperator::Kind::linear:
      return {.known = a.numel() * (b.dim() > 1 ? b.size(0) : 1)};
    case CountedOperator::Kind::attention: {
      const std::int64_t scores = a.numel() / std::max<std::int64_t>(a.size(-1), 1) * b.size(-2);
      return {.known = scores * (a.size(-1) + tensor(op.first + 2).size(-1))};
    }
  }
  return {};
}

/// The count of this thread.
struct MultiplyAddCount {
  std::int64_t total = 0;
  int depth = 0;  ///< of counted operators that call each other
};

inline MultiplyAddCount& multiply_add_count() {
  static thread_local MultiplyAddCount count;
  return count;
}

/// LibTorch's key for modes that see every operator, which it leaves to tests: only this count uses
/// it, and gives it back. An observer of `RecordFunction` would be usual, but reads its arguments
/// only in programs that define NDEBUG as LibTorch does.
inline constexpr c10::DispatchKey count_key = c10::DispatchKey::TESTING_ONLY_GenericMode;

/// Counts an operator and calls it.
inline void count_and_call(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                           torch::jit::Stack* stack) {
  const auto* const found =
      std::ranges::find(counted_operators, std::string_view(op.operator_name().name), &CountedOperator::name);
  const auto call = [&] {
    op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, count_key), stack);
  };
  if (found == std::end(counted_operators)) return call();
  MultiplyAddCount& count = multiply_add_count();
  struct Depth {
    int& depth;
    explicit Depth(int& d) : depth(d) { ++depth; }
    ~Depth() { --depth; }
  } const inside(count.depth);
  CallCost cost;
  if (count.depth == 1) cost = cost_of_call(*found, torch::jit::last(*stack, op.schema().arguments().size()));
  call();
  count.total += cost.known;
  if (cost.per_output > 0) count.total += cost.per_output * stack->back().toTensor().numel();
}

REFINE_INLINE std::int64_t peak_tensor_memory(at::Device device, const std::function<void()>& work) {
  const auto meter = std::make_shared<TensorMemory>(device);
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  work();
  return meter->peak();
}

REFINE_INLINE std::int64_t multiply_adds_of(const std::function<void()>& work) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  torch::Library library(torch::Library::IMPL, "_", count_key, __FILE__,
                         __LINE__);  // until the end of this scope
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&count_and_call>());
  struct ScopedLibTorchConvolutions {
    bool before = nn::detail::winograd_allowed();
    ScopedLibTorchConvolutions() { nn::allow_winograd(false); }
    ~ScopedLibTorchConvolutions() { nn::allow_winograd(before); }
  } const only_operators;
  const MultiplyAddCount outer = std::exchange(multiply_add_count(), {});
  try {
    const c10::impl::IncludeDispatchKeyGuard counting(count_key);
    work();
  } catch (...) {
    multiply_add_count() = outer;
    throw;
  }
  return std::exchange(multiply_add_count(), outer).total;
}

}  // namespace refine::detail
