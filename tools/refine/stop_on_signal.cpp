#include "tools/refine/stop_on_signal.hpp"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>

#include <refine/core/text.hpp>

namespace refine::cli {
namespace {

// What the handler reads. It may call only functions that are safe in a handler.
std::atomic<int> received = 0;          // number of the signal
std::atomic<bool> is_training = false;  // a signal waits for the end of the step
std::atomic<bool> is_trained = false;   // the farewell is true
std::string farewell;                   // constant while the handlers are installed
constexpr std::array<int, 2> signals = {SIGINT, SIGTERM};
std::array<struct sigaction, signals.size()> old_actions;

static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

extern "C" void handle_signal(int number) {
  if (is_training && received.exchange(number) == 0) return;
  if (is_trained && !is_training) {
    [[maybe_unused]] const ::ssize_t written = ::write(STDERR_FILENO, farewell.data(), farewell.size());
  }
  ::_exit(128 + number);
}

}  // namespace

StopOnSignal::StopOnSignal(const std::string& resume_command, bool has_checkpoints)
    : has_checkpoints_(has_checkpoints) {
  farewell = "\nstopped: training is complete and saved\ngo on with: " + text::printable(resume_command) + "\n";
  is_training = is_trained = false;
  received = 0;
  for (std::size_t i = 0; i < signals.size(); ++i) {
    struct sigaction action = {};
    action.sa_handler = handle_signal;
    action.sa_flags = SA_RESTART;
    ::sigaction(signals[i], nullptr, &old_actions[i]);
    if (old_actions[i].sa_handler != SIG_IGN) ::sigaction(signals[i], &action, nullptr);
  }
}

StopOnSignal::~StopOnSignal() {
  for (std::size_t i = 0; i < signals.size(); ++i) ::sigaction(signals[i], &old_actions[i], nullptr);
}

void StopOnSignal::on_begin(const RunInfo&) {
  is_training = true;
}

void StopOnSignal::on_end() {
  is_trained = has_checkpoints_;
  is_training = false;
  // Between the last question of the training and here.
  if (const int number = received; number != 0) {
    ::raise(number);
  }
}

bool StopOnSignal::stop_requested() const {
  return received != 0;
}

int StopOnSignal::exit_status() {
  return 128 + received;
}

}  // namespace refine::cli
