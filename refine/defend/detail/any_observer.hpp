#pragma once

#include <tuple>

#include <refine/training/observers.hpp>

namespace refine::detail {

/// Observers of a training behind one type.
struct AnyObserver {
  virtual ~AnyObserver() = default;
  virtual void on_begin(const RunInfo& info) = 0;
  virtual void on_step(const StepInfo& info) = 0;
  virtual void on_epoch(const EpochInfo& info) = 0;
  virtual void on_end() = 0;
};

/// Forwards to several observers, which may lack members.
template <typename... Observers>
struct AllObservers final : AnyObserver {
  explicit AllObservers(Observers&... each) : observers(each...) {}

  void on_begin(const RunInfo& info) override {
    std::apply([&](auto&... each) { notify_begin(info, each...); }, observers);
  }
  void on_step(const StepInfo& info) override {
    std::apply([&](auto&... each) { notify_step(info, each...); }, observers);
  }
  void on_epoch(const EpochInfo& info) override {
    std::apply([&](auto&... each) { notify_epoch(info, each...); }, observers);
  }
  void on_end() override {
    std::apply([&](auto&... each) { notify_end(each...); }, observers);
  }

  std::tuple<Observers&...> observers;
};

}  // namespace refine::detail
