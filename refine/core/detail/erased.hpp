#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

/// What the types that hold any policy (`AnyTrigger`, `AnyBackbone` …) have in common.
namespace refine::detail {

/// Satisfied if `Policy` is not the type `Any` itself: what a constructor of `Any` from a policy
/// takes.
template <typename Policy, typename Any>
concept OtherThan = !std::same_as<std::remove_cvref_t<Policy>, Any>;

/// A policy of any type behind an interface. Copies share it; it is never modified.
/// \tparam Interface a class with virtual members
template <typename Interface>
class Erased {
 public:
  /// Constructs the policy's model.
  /// \tparam Model derives from `Interface` and forwards to a policy
  /// \param policy the argument of its constructor
  template <typename Model, typename Policy>
  static Erased with(Policy policy) {
    return Erased(std::make_shared<const Model>(std::move(policy)));
  }

  /// Returns the held policy's interface.
  const Interface* operator->() const { return held_.get(); }

 private:
  explicit Erased(std::shared_ptr<const Interface> held) : held_(std::move(held)) {}

  std::shared_ptr<const Interface> held_;
};

}  // namespace refine::detail
