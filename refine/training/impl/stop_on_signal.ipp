#pragma once

#include <refine/training/stop_on_signal.hpp>

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <string>
#include <string_view>

#include <refine/core/config.hpp>
#include <refine/core/text.hpp>
#include <refine/training/detail/run_state.hpp>

namespace refine::detail::signals {

// What the handler reads. It may call only functions that are safe in a handler.
inline std::atomic<int> received = 0;             // number of the signal
inline std::atomic<bool> is_answered = false;     // the training was asked to stop because of it
inline std::atomic<bool> is_training = false;     // `on_begin` was called, and `on_end` was not
inline std::atomic<bool> is_in_training = false;  // `on_begin` was called by a training that is counted
inline std::atomic<bool> is_trained = false;      // the farewell is true
inline std::string farewell, hurried_farewell;    // constant while the handlers are installed
inline constexpr std::array<int, 2> numbers = {SIGINT, SIGTERM};
inline std::array<struct sigaction, numbers.size()> old_actions;

static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

extern "C" inline void refine_handle_signal(int number) {
  // A training that ends with an exception does not call `on_end`.
  const bool must_wait = is_training && !(is_in_training && running_trainings == 0);
  if (must_wait && received.exchange(number) == 0) return;
  if (is_trained || must_wait) {
    const std::string& text = must_wait ? hurried_farewell : farewell;
    [[maybe_unused]] const ::ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
  }
  ::_exit(128 + number);
}

}  // namespace refine::detail::signals

namespace refine {

REFINE_INLINE StopOnSignal::StopOnSignal(const std::string& resume_command) {
  const auto with_command = [&](const char* what) {
    return resume_command.empty() ? "" : what + ("\ngo on with: " + text::printable(resume_command) + "\n");
  };
  detail::signals::farewell = with_command("\nstopped: training is complete and saved");
  detail::signals::hurried_farewell =
      with_command("\nstopped at once: the steps since the last checkpoint are lost");
  detail::signals::is_training = detail::signals::is_trained = detail::signals::is_answered = false;
  detail::signals::received = 0;
  for (std::size_t i = 0; i < detail::signals::numbers.size(); ++i) {
    struct sigaction action = {};
    action.sa_handler = detail::signals::refine_handle_signal;
    action.sa_flags = SA_RESTART;
    ::sigaction(detail::signals::numbers[i], nullptr, &detail::signals::old_actions[i]);
    if (detail::signals::old_actions[i].sa_handler != SIG_IGN)
      ::sigaction(detail::signals::numbers[i], &action, nullptr);
  }
}

REFINE_INLINE StopOnSignal::~StopOnSignal() {
  for (std::size_t i = 0; i < detail::signals::numbers.size(); ++i)
    ::sigaction(detail::signals::numbers[i], &detail::signals::old_actions[i], nullptr);
}

REFINE_INLINE void StopOnSignal::on_begin(const RunInfo&) {
  // A signal that has stopped an earlier training does not stop this one. One that came too late for that does.
  if (detail::signals::is_answered.exchange(false)) detail::signals::received = 0;
  detail::signals::is_trained = false;
  detail::signals::is_in_training = detail::running_trainings > 0;
  detail::signals::is_training = true;
}

REFINE_INLINE void StopOnSignal::on_end() {
  detail::signals::is_trained = true;
  detail::signals::is_training = false;
  // Between the last question of the training and here.
  if (const int number = detail::signals::received; number != 0) {
    ::raise(number);
  }
}

REFINE_INLINE bool StopOnSignal::stop_requested() const {
  if (detail::signals::received == 0) return false;
  detail::signals::is_answered = true;
  return true;
}

REFINE_INLINE int StopOnSignal::exit_status() {
  const int received = detail::signals::received;
  return 128 + (received != 0 ? received : SIGTERM);
}

REFINE_INLINE std::string resume_command(int argc, const char* const* argv) {
  std::string command;
  for (int i = 0; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word != "--resume") command += text::quote_for_shell(word) + ' ';
  }
  return command + "--resume";
}

}  // namespace refine
