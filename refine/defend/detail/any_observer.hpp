#pragma once

#include <memory>
#include <string_view>
#include <tuple>

#include <refine/training/detail/run_state.hpp>
#include <refine/training/observers.hpp>

namespace refine::detail {

/// Observers of a training behind one type.
struct AnyObserver {
  virtual ~AnyObserver() = default;
  virtual void on_begin(const RunInfo& info) = 0;
  virtual void on_step(const StepInfo& info) = 0;
  virtual void on_epoch(const EpochInfo& info) = 0;
  virtual void on_end() = 0;
  virtual void on_note(std::string_view text) = 0;
  virtual void on_warning(std::string_view text) = 0;
  virtual bool stop_requested() = 0;
  virtual std::unique_ptr<RunStore> open() = 0;
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
  void on_note(std::string_view text) override {
    std::apply([&](auto&... each) { notify_note(text, each...); }, observers);
  }
  void on_warning(std::string_view text) override {
    std::apply([&](auto&... each) { notify_warning(text, each...); }, observers);
  }
  bool stop_requested() override {
    return std::apply([&](auto&... each) { return detail::stop_requested(each...); }, observers);
  }
  std::unique_ptr<RunStore> open() override {
    return std::apply([&](auto&... each) { return open_store(each...); }, observers);
  }

  std::tuple<Observers&...> observers;
};

}  // namespace refine::detail
