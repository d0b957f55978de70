#pragma once

#include <refine/distributed/c10d.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <functional>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

// Gloo is compiled into LibTorch, but its headers are not part of the wheel. Only pointers to its types are
// used here, so the headers may be of another version.
#if !defined(REFINE_GLOO)
#if __has_include(<gloo/transport/device.h>)
#define REFINE_GLOO 1
#else
#define REFINE_GLOO 0
#endif
#endif

#if REFINE_GLOO
#if !defined(USE_C10D_GLOO)
#define USE_C10D_GLOO
#endif
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#endif

#include <refine/core/error.hpp>
#include <refine/core/text.hpp>

namespace refine::distributed::detail {

/// Returns the first sentence of what an exception of LibTorch says, without the source file.
inline std::string first_sentence(const std::exception& error) {
  std::string line = error.what();
  line = line.substr(0, line.find('\n'));
  line = line.substr(0, line.find(". "));
  if (const auto end = line.find("] "); line.starts_with("[/") && end != std::string::npos)
    line = line.substr(end + 2);
  return text::printable(line);
}

/// Returns the first of some environment variables that is set; nothing if none is.
inline std::optional<std::pair<std::string, std::string>> find_variable(
    std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0')
      return std::pair<std::string, std::string>(name, value);
  }
  return std::nullopt;
}

inline std::pair<std::string, std::string> require_variable(std::initializer_list<const char*> names) {
  if (const auto found = find_variable(names)) return *found;
  throw Error(
      "environment: {} is not set; start the program with torchrun --no-python, or set RANK, WORLD_SIZE, "
      "MASTER_ADDR and MASTER_PORT",
      *names.begin());
}

inline std::int64_t require_number(std::initializer_list<const char*> names, std::int64_t low,
                                   std::int64_t high) {
  const auto [name, value] = require_variable(names);
  char* end = nullptr;
  const long long number = std::strtoll(value.c_str(), &end, 10);
  if (*end != '\0' || number < low || number > high) {
    throw Error("environment: {} must be a number from {} to {}, got '{}'", name, low, high,
                text::printable(value));
  }
  return number;
}

inline std::int64_t require_size() {
  constexpr std::int64_t max_ranks = 1 << 20;
  return require_number({"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"}, 1, max_ranks);
}

/// True if a launcher has started this process as one of several, or seems to have.
inline bool is_started_as_rank() {
  return find_variable({"RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK"}) ||
         (find_variable({"SLURM_PROCID"}) && find_variable({"MASTER_ADDR"}));
}

/// Returns how often torchrun has started the processes again.
inline std::int64_t restart_count() {
  const auto count = find_variable({"TORCHELASTIC_RESTART_COUNT"});
  return count ? std::strtoll(count->second.c_str(), nullptr, 10) : 0;
}

#if REFINE_GLOO

/// What a rank knows of the others, from the store where they meet. A thread reads and writes it once a
/// second; the main thread never waits for the store, which may not answer.
struct Watch {
  using Clock = std::chrono::steady_clock;

  /// Of a rank.
  struct Pulse {
    std::string text = first_text;          ///< what it last wrote
    Clock::time_point seen = Clock::now();  ///< when it last showed that its process lives
    bool has_failed = false;                ///< it has lost its connection
    bool is_done = false;                   ///< it has found out which ranks are lost
  };

  static constexpr const char* first_text = "00 0";  ///< see `exchange`

  static constexpr std::chrono::milliseconds beat = std::chrono::seconds(1);

  Watch(c10::intrusive_ptr<c10d::Store> s, std::int64_t r, std::int64_t size)
      : store(std::move(s)), rank(r), pulses(static_cast<std::size_t>(size)) {
    for (std::int64_t other = 0; other < size; ++other) keys.push_back(key("pulse/", other));
  }

  static std::string key(const char* what, std::int64_t rank) { return what + std::to_string(rank); }

  static void set(c10d::Store& store, const std::string& key, const std::string& value) {
    store.set(key, std::vector<std::uint8_t>(value.begin(), value.end()));
  }

  /// Runs in the thread, until `is_ending`.
  void run() {
    for (std::int64_t count = 1;; ++count) {
      bool has_failed = false, is_done = false;
      {
        std::unique_lock lock(mutex);
        wake.wait_for(lock, beat, [&] { return is_ending || must_hurry; });
        if (is_ending) return;
        must_hurry = false;
        has_failed = pulses[static_cast<std::size_t>(rank)].has_failed;
        is_done = pulses[static_cast<std::size_t>(rank)].is_done;
      }
      try {
        exchange(count, has_failed, is_done);
      } catch (const std::exception&) {
        const std::lock_guard lock(mutex);
        is_store_lost = true;
        return;
      }
    }
  }

  /// Each rank writes "FD N": whether it has failed, whether it is done, and a number that grows.
  void exchange(std::int64_t count, bool has_failed, bool is_done) {
    const auto begun = Clock::now();
    set(*store, key("pulse/", rank),
        std::string(has_failed ? "1" : "0") + (is_done ? "1 " : "0 ") + std::to_string(count));
    const std::vector<std::vector<std::uint8_t>> read = store->multiGet(keys);
    const std::lock_guard lock(mutex);
    round_begun = begun;
    round = Clock::now();
    for (std::size_t other = 0; other < pulses.size(); ++other) {
      Pulse& pulse = pulses[other];
      const std::string text(read[other].begin(), read[other].end());
      if (text != pulse.text) pulse.seen = round;
      pulse.text = text;
      if (static_cast<std::int64_t>(other) == rank) continue;
      pulse.has_failed = text.starts_with("1");
      pulse.is_done = text.substr(1).starts_with("1");
    }
  }

  const c10::intrusive_ptr<c10d::Store> store;
  const std::int64_t rank;
  std::vector<std::string> keys;  ///< of what each rank writes
  std::mutex mutex;
  std::condition_variable wake;
  bool is_ending = false, must_hurry = false;
  bool is_store_lost = false;
  Clock::time_point round_begun = Clock::now(), round = Clock::now();  ///< of the last look at the store
  std::vector<Pulse> pulses;                                           ///< of each rank
};

/// The connection of a rank to the others.
class Group {
 public:
  Group(std::int64_t rank, std::int64_t size, const std::string& address, std::int64_t port,
        const C10dOptions& options)
      : rank_(rank), size_(size), options_(options), serves_store_(rank == 0 && !torchrun_serves_store()) {
    // All ranks make their communicators in the same order. torchrun keeps its store over restarts.
    static std::atomic<int> communicators = 0;
    // LibTorch reports a lost connection with a page of addresses; the `Error` has what matters.
    if (!find_variable({"TORCH_CPP_LOG_LEVEL"})) FLAGS_caffe2_log_level = 2;
    const std::string prefix = "refine/" + std::to_string(communicators++);
    try {
      c10d::TCPStoreOptions server;
      server.port = static_cast<std::uint16_t>(port);
      server.isServer = serves_store_;
      server.waitWorkers = false;
      server.timeout = options.connect_timeout;
      const c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::PrefixStore>(
          prefix, c10::make_intrusive<c10d::TCPStore>(address, server));
      const std::string generation = meet(store);
      server.isServer = false;
      watch_ = std::make_shared<Watch>(
          c10::make_intrusive<c10d::PrefixStore>(prefix + "/" + generation,
                                                 c10::make_intrusive<c10d::TCPStore>(address, server)),
          rank, size);
      thread_ = std::thread([watch = watch_] { watch->run(); });
      now_ = connect("now", address);
      background_ = connect("background", address);
    } catch (const Error&) {
      end_watch();
      throw;
    } catch (const std::exception& error) {
      end_watch();
      throw Error("rank {} of {}: cannot reach the other ranks by {}:{} within {} s ({}); start all of them",
                  rank, size, address, port, seconds(options.connect_timeout), first_sentence(error));
    }
  }

  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  ~Group() {
    end_watch();
    if (!has_failed_) return;
    // Their destructors would wait for exchanges that do not end.
    now_.release();
    background_.release();
  }

  void sum_(at::Tensor& tensor) {
    at::Tensor host = on_host(tensor);
    constexpr std::int64_t max_small_bytes = 1 << 16;
    if (static_cast<std::int64_t>(host.nbytes()) * size_ <= max_small_bytes) {
      sum_small(host);
    } else {
      wait(*begin(now_, Exchange::sum, host, 0));
    }
    if (!host.is_same(tensor)) tensor.copy_(host);
  }

  Pending begin(Exchange exchange, at::Tensor& tensor, std::int64_t root) {
    at::Tensor host = on_host(tensor);
    return Pending([this, host, tensor, work = begin(background_, exchange, host, root)]() mutable {
      wait(*work);
      if (!host.is_same(tensor)) tensor.copy_(host);
    });
  }

  std::int64_t bytes() const { return bytes_; }

  std::int64_t restarts() const { return restarts_; }

 private:
  using Clock = Watch::Clock;
  using Gloo = c10::intrusive_ptr<c10d::ProcessGroupGloo>;

  static bool torchrun_serves_store() {
    const auto answer = find_variable({"TORCHELASTIC_USE_AGENT_STORE"});
    return answer && answer->second == "True";
  }

  static double seconds(std::chrono::milliseconds time) {
    return std::chrono::duration<double>(time).count();
  }

  static at::Tensor on_host(const at::Tensor& tensor) {
    return tensor.is_cpu() && tensor.is_contiguous() ? tensor : tensor.cpu().contiguous();
  }

  void set(const std::string& key, const std::string& value) const { Watch::set(*store_, key, value); }

  std::string get(const std::string& key) {
    const std::vector<std::uint8_t> value = store_->get(key);
    return text::printable(std::string(value.begin(), value.end()));
  }

  static std::string key(const char* what, std::int64_t rank) { return Watch::key(what, rank); }

  Gloo connect(const char* name, const std::string& address) {
    const auto gloo = c10d::ProcessGroupGloo::Options::create(options_.connect_timeout);
    const auto interface = find_variable({"GLOO_SOCKET_IFNAME"});
    const bool is_local = address == "localhost" || address.starts_with("127.");
    gloo->devices.push_back(interface  ? c10d::ProcessGroupGloo::createDeviceForInterface(interface->second)
                            : is_local ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                                       : c10d::ProcessGroupGloo::createDefaultDevice());
    gloo->threads = 1;
    auto group =
        c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>(name, store_),
                                                    static_cast<int>(rank_), static_cast<int>(size_), gloo);
    group->setTimeout(options_.timeout);
    return group;
  }

  /// Waits until all ranks have started, and checks that they know the same number of ranks.
  ///
  /// torchrun keeps its store when it starts the ranks again, and machines may count the restarts differently. So rank 0
  /// begins a generation, whose keys are its own, and the others look for the newest one.
  /// \return the generation
  std::string meet(const c10::intrusive_ptr<c10d::Store>& store) {
    const auto deadline = Clock::now() + options_.connect_timeout;
    std::int64_t generation = 0, arrived = 0;
    bool is_own = false;  // no earlier process of this rank has joined the generation
    for (;;) {
      const std::int64_t newest = store->add("generation", rank_ == 0 && generation == 0 ? 1 : 0);
      if (newest > generation) {
        generation = newest;
        is_own = join(store, generation);
      }
      if (rank_ == 0 && have_all_arrived(arrived))
        set("restarts", std::to_string(std::max(generation - 1, restart_count())));
      if (is_own && store_->check({"restarts"})) break;
      if (Clock::now() > deadline) {
        std::int64_t missing = 0;
        while (is_own && missing + 1 < size_ && store_->check({key("size/", missing)})) ++missing;
        throw Error("rank {} of {}: rank {} has not started within {} s; start all of them", rank_, size_,
                    missing, seconds(options_.connect_timeout));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    restarts_ = std::stoll(get("restarts"));
    for (std::int64_t other = 0; other < size_; ++other) {
      if (const std::string its_size = size_known_to(other); its_size != std::to_string(size_)) {
        throw Error("rank {}: the ranks must have the same WORLD_SIZE (got {}, rank {} has {})", rank_, size_,
                    other, its_size);
      }
      hosts_.push_back(get(key("host/", other)));
    }
    return std::to_string(generation);
  }

  /// Writes to the keys of a generation. Returns false if another process of this rank has done so.
  bool join(const c10::intrusive_ptr<c10d::Store>& store, std::int64_t generation) {
    store_ = c10::make_intrusive<c10d::PrefixStore>(std::to_string(generation), store);
    if (store_->add(key("processes/", rank_), 1) > 1) {
      if (torchrun_serves_store()) return false;  // that process was of the ranks that have failed
      throw Error("rank {} of {}: another process has RANK={}, too; give each process its own", rank_, size_,
                  rank_);
    }
    char host[256] = {};
    ::gethostname(host, sizeof host - 1);
    set(key("host/", rank_), host);
    set(key("pulse/", rank_), Watch::first_text);
    set(key("size/", rank_), std::to_string(size_));
    return true;
  }

  /// True if all ranks have joined, or one that knows another number of ranks.
  /// \param arrived the number of ranks that had joined, and now have
  bool have_all_arrived(std::int64_t& arrived) {
    while (arrived < size_ && store_->check({key("size/", arrived)})) {
      if (size_known_to(arrived) != std::to_string(size_)) return true;
      ++arrived;
    }
    return arrived == size_;
  }

  /// Returns the number of ranks that a rank knows.
  std::string size_known_to(std::int64_t rank) { return get(key("size/", rank)); }

  void end_watch() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(watch_->mutex);
      watch_->is_ending = true;
    }
    watch_->wake.notify_all();
    if (has_failed_) {
      thread_.detach();  // it may wait for a store that does not answer
    } else {
      thread_.join();
    }
  }

  /// Sums by sending all values to all ranks: half of the rounds of a sum in a ring. Every rank adds them
  /// in the same order.
  void sum_small(at::Tensor& host) {
    std::vector<std::vector<at::Tensor>> all(1);
    for (std::int64_t rank = 0; rank < size_; ++rank) all.front().push_back(at::empty_like(host));
    std::vector<at::Tensor> own{host};
    wait(*count_and_start(host, [&] {
      c10d::AllgatherOptions options;
      options.timeout = options_.timeout;
      return now_->allgather(all, own, options);
    }));
    host.copy_(all.front().front());
    for (std::int64_t rank = 1; rank < size_; ++rank) host.add_(all.front()[static_cast<std::size_t>(rank)]);
  }

  c10::intrusive_ptr<c10d::Work> begin(const Gloo& group, Exchange exchange, const at::Tensor& host,
                                       std::int64_t root) {
    return count_and_start(host, [&] {
      std::vector<at::Tensor> tensors{host};
      if (exchange == Exchange::copy_from) {
        // As bytes: Gloo does not know all types. They keep the memory until its thread is done with it.
        tensors = {at::from_blob(
            host.mutable_data_ptr(), {static_cast<std::int64_t>(host.nbytes())}, [host](void*) {},
            at::kByte)};
        c10d::BroadcastOptions copy;
        copy.rootRank = root;
        copy.timeout = options_.timeout;
        return group->broadcast(tensors, copy);
      }
      if (exchange == Exchange::sum_on) {
        c10d::ReduceOptions sum;
        sum.rootRank = root;
        sum.timeout = options_.timeout;
        return group->reduce(tensors, sum);
      }
      c10d::AllreduceOptions sum;
      sum.timeout = options_.timeout;
      return group->allreduce(tensors, sum);
    });
  }

  /// Starts an exchange of a tensor. \throws Error that names the ranks which do not answer
  template <typename Start>
  c10::intrusive_ptr<c10d::Work> count_and_start(const at::Tensor& host, const Start& start) {
    bytes_ += static_cast<std::int64_t>(host.nbytes());
    try {
      return start();
    } catch (const std::exception& error) {
      fail(first_sentence(error));
    }
  }

  void wait(c10d::Work& work) {
    const auto begin = Clock::now();
    // BatchNorm waits at each layer, and a thread that sleeps may wake up late, in a virtual machine by a millisecond.
    constexpr std::chrono::milliseconds awake(5);
    while (!work.isCompleted() && Clock::now() - begin < awake) std::this_thread::yield();
    for (;;) {
      try {
        work.wait(std::chrono::seconds(1));
        return;
      } catch (const std::exception& error) {
        if (work.isCompleted() && work.exception()) fail(first_sentence(error));
      }
      if (work.isCompleted()) continue;
      if (Clock::now() - begin > options_.timeout)
        fail("no answer within " + std::to_string(seconds(options_.timeout)) + " s");
      const std::lock_guard lock(watch_->mutex);
      if (is_store_silent(begin)) break;
      bool is_over = false;
      for (const Watch::Pulse& pulse : watch_->pulses)
        is_over |= pulse.has_failed || Clock::now() - pulse.seen > options_.silence;
      if (is_over) break;
    }
    fail("an exchange does not end");
  }

  /// True if the store has not answered for long. The lock of `watch_` must be held.
  /// \param since when waiting began
  bool is_store_silent(Clock::time_point since) const {
    return watch_->is_store_lost || Clock::now() - std::max(watch_->round, since) > options_.silence;
  }

  [[noreturn]] void fail(const std::string& why) {
    has_failed_ = true;
    throw Error("rank {}: {}; start all ranks again", rank_, describe_failure(why));
  }

  /// Finds out which ranks do not answer: those that leave no mark in the store, and whose process shows
  /// no sign of life.
  std::string describe_failure(const std::string& why) {
    const auto begin = Clock::now();
    change_own([](Watch::Pulse& pulse) { pulse.has_failed = true; });
    std::vector<std::int64_t> lost;
    bool is_store_silent = false;
    // What the first look after the failure finds may have been written before it.
    Clock::time_point first_look = Clock::time_point::max();
    do {
      std::this_thread::sleep_for(Watch::beat / 4);
      const std::lock_guard lock(watch_->mutex);
      is_store_silent = watch_->is_store_lost || watch_->round < begin;
      if (watch_->round_begun >= begin) first_look = std::min(first_look, watch_->round);
      lost.clear();
      for (std::int64_t other = 0; other < size_; ++other) {
        const Watch::Pulse& pulse = watch_->pulses[static_cast<std::size_t>(other)];
        if (other != rank_ && pulse.seen <= first_look && !pulse.has_failed) lost.push_back(other);
      }
    } while ((is_store_silent || !lost.empty()) && Clock::now() - begin < 5 * Watch::beat);
    if (is_store_silent)
      return (torchrun_serves_store() ? "torchrun" : describe(0)) + " does not answer (" + why + ")";
    change_own([](Watch::Pulse& pulse) { pulse.is_done = true; });
    if (serves_store_) wait_for_askers(lost);
    std::string names;
    for (const std::int64_t other : lost) names += (names.empty() ? "" : ", ") + describe(other);
    return lost.empty() ? "the connection to another rank failed, whose process lives (" + why + ")"
                        : names + " does not answer (" + why + ")";
  }

  /// Changes what this rank reports to the others.
  template <typename Change>
  void change_own(const Change& change) {
    {
      const std::lock_guard lock(watch_->mutex);
      change(watch_->pulses[static_cast<std::size_t>(rank_)]);
      watch_->must_hurry = true;
    }
    watch_->wake.notify_all();
  }

  /// Keeps the store open while the other ranks find out what has failed.
  void wait_for_askers(const std::vector<std::int64_t>& lost) {
    const auto begin = Clock::now();
    for (bool all_done = false; !all_done && Clock::now() - begin < 8 * Watch::beat;) {
      std::this_thread::sleep_for(Watch::beat / 10);
      const std::lock_guard lock(watch_->mutex);
      all_done = true;
      for (std::int64_t other = 1; other < size_; ++other) {
        if (std::find(lost.begin(), lost.end(), other) == lost.end())
          all_done &= watch_->pulses[static_cast<std::size_t>(other)].is_done;
      }
    }
    std::this_thread::sleep_for(Watch::beat);  // the answer to the last one is on its way
  }

  std::string describe(std::int64_t rank) const {
    return "rank " + std::to_string(rank) + " on " + hosts_[static_cast<std::size_t>(rank)];
  }

  std::int64_t rank_, size_;
  C10dOptions options_;
  bool serves_store_;
  std::vector<std::string> hosts_;         ///< of each rank
  c10::intrusive_ptr<c10d::Store> store_;  ///< where this generation of ranks meets
  Gloo now_, background_;                  ///< connections for exchanges that are waited for, and for others
  std::int64_t bytes_ = 0, restarts_ = 0;
  std::shared_ptr<Watch> watch_;
  std::thread thread_;
  bool has_failed_ = false;
};

#else

class Group {
 public:
  Group(std::int64_t, std::int64_t, const std::string&, std::int64_t, const C10dOptions&) {
    throw Error(
        "several ranks: this program was compiled without Gloo's headers; install them (Debian: libgloo-dev) and "
        "compile it again");
  }
  void sum_(at::Tensor&) {}
  Pending begin(Exchange, at::Tensor&, std::int64_t) { return {}; }
  std::int64_t bytes() const { return 0; }
  std::int64_t restarts() const { return 0; }
};

#endif

}  // namespace refine::distributed::detail

namespace refine::distributed {

REFINE_INLINE bool C10d::is_available() {
  return REFINE_GLOO;
}

REFINE_INLINE C10d C10d::from_environment(const C10dOptions& options) {
  // Longer ones overflow the nanoseconds of a clock.
  constexpr std::chrono::milliseconds max_time = std::chrono::hours(24 * 365);
  for (const auto& [name, time, low] :
       {std::tuple("timeout", options.timeout, 0), std::tuple("connect_timeout", options.connect_timeout, 0),
        std::tuple("silence", options.silence, 2000)}) {
    if (time.count() <= low || time > max_time) {
      throw Error("c10d.{} must be above {} ms and at most {} ms, got {} ms", name, low, max_time.count(),
                  time.count());
    }
  }
  const std::int64_t size = detail::require_size();
  const std::int64_t rank =
      detail::require_number({"RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"}, 0, size - 1);
  if (size == 1) {
    C10d single;
    single.restarts_ = detail::restart_count();
    return single;
  }
  const std::string address = detail::require_variable({"MASTER_ADDR"}).second;
  const std::int64_t port = detail::require_number({"MASTER_PORT"}, 1, 65535);
  return C10d(rank, size, std::make_shared<detail::Group>(rank, size, address, port, options));
}

REFINE_INLINE C10d C10d::from_environment_or_single(const C10dOptions& options) {
  return detail::is_started_as_rank() ? from_environment(options) : C10d();
}

REFINE_INLINE std::int64_t C10d::size_in_environment() {
  return detail::is_started_as_rank() ? detail::require_size() : 1;
}

REFINE_INLINE std::int64_t C10d::local_rank() const {
  const auto found = detail::find_variable({"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"});
  return group_ && found ? std::strtoll(found->second.c_str(), nullptr, 10) : 0;
}

REFINE_INLINE std::int64_t C10d::restarts() const {
  return group_ ? group_->restarts() : restarts_;
}

REFINE_INLINE void C10d::sum_(at::Tensor& tensor) const {
  if (group_) group_->sum_(tensor);
}

REFINE_INLINE Pending C10d::begin(Exchange exchange, at::Tensor& tensor, std::int64_t root) const {
  if (!group_) return {};
  // Also after the communicator was destroyed.
  return Pending(
      [group = group_, pending = group_->begin(exchange, tensor, root)]() mutable { pending.wait(); });
}

REFINE_INLINE std::int64_t C10d::bytes_exchanged() const {
  return group_ ? group_->bytes() : 0;
}

}  // namespace refine::distributed
