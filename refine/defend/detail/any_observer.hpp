#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <tuple>

#include <refine/distributed/communicator.hpp>
#include <refine/training/detail/run_state.hpp>
#include <refine/training/observers.hpp>

namespace refine::detail {

/// Observers of a training behind one type, with the communicator among them. Without one, it is a single
/// rank.
struct AnyObserver : distributed::AnyCommunicator {
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

  std::int64_t rank() override { return ranks().rank(); }
  std::int64_t size() override { return ranks().size(); }
  std::int64_t restarts() override { return ranks().restarts(); }
  void sum_(at::Tensor& tensor) override { ranks().sum_(tensor); }
  distributed::Pending begin(distributed::Exchange exchange, at::Tensor& tensor, std::int64_t root) override {
    return ranks().begin(exchange, tensor, root);
  }

  auto& ranks() {
    return std::apply(
        [](auto&... each) -> auto& { return distributed::detail::find_communicator(each...); }, observers);
  }

  std::tuple<Observers&...> observers;
};

}  // namespace refine::detail
