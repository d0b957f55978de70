#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

#include <refine/core/error.hpp>

namespace at {
class Tensor;
}

/// \namespace refine::distributed
/// Training by several processes, each with a part of every batch. A process is called a rank.
namespace refine::distributed {

/// What `Communicator::begin` does with a tensor.
enum class Exchange {
  sum,        ///< every rank gets the sum over all ranks
  sum_on,     ///< one rank gets the sum; the tensor of the others is undefined afterwards
  copy_from,  ///< every rank gets the tensor of one rank
};

/// An exchange that runs in the background.
class Pending {
 public:
  Pending() = default;

  /// \param wait waits for the end, called once
  explicit Pending(std::function<void()> wait) : wait_(std::move(wait)) {}

  /// Waits until the tensor has its new values.
  /// \throws Error that names the ranks which do not answer
  void wait() {
    if (wait_) std::exchange(wait_, {})();
  }

 private:
  std::function<void()> wait_;
};

/// What ranks exchange. For an object `c` of type `C`:
///
///  1. `c.rank()` is the number of this process, from 0; `c.size()` is the number of processes;
///  2. `c.restarts()` is how often the launcher has started the processes again after a failure;
///  3. `c.sum_(tensor)` replaces a dense tensor, of the same shape and type on every rank, by the sum
///     over all ranks. Every rank gets the same bits;
///  4. `c.begin(exchange, tensor, root)` does what `exchange` specifies, in the background, and returns
///     `Pending`. The tensor must exist, and must not be used, until `wait`. `root` is the rank that
///     `sum_on` and `copy_from` name.
///
/// All ranks make the same calls in the same order.
template <typename C>
concept Communicator = requires(C& c, at::Tensor& tensor, Exchange exchange, std::int64_t root) {
  { c.rank() } -> std::convertible_to<std::int64_t>;
  { c.size() } -> std::convertible_to<std::int64_t>;
  { c.restarts() } -> std::convertible_to<std::int64_t>;
  c.sum_(tensor);
  { c.begin(exchange, tensor, root) } -> std::same_as<Pending>;
};

/// The communicator of a single process. What trains with it is compiled without any communication.
struct Serial {
  /// Returns 0.
  static constexpr std::int64_t rank() { return 0; }

  /// Returns 1.
  static constexpr std::int64_t size() { return 1; }

  /// Returns 0.
  static constexpr std::int64_t restarts() { return 0; }

  /// Does nothing.
  static void sum_(at::Tensor&) {}

  /// Does nothing.
  static Pending begin(Exchange, at::Tensor&, std::int64_t) { return {}; }
};

static_assert(Communicator<Serial>);

/// A communicator behind one type.
class AnyCommunicator {
 public:
  virtual ~AnyCommunicator() = default;
  virtual std::int64_t rank() = 0;
  virtual std::int64_t size() = 0;
  virtual std::int64_t restarts() = 0;
  virtual void sum_(at::Tensor& tensor) = 0;
  virtual Pending begin(Exchange exchange, at::Tensor& tensor, std::int64_t root) = 0;
};

static_assert(Communicator<AnyCommunicator>);

/// The rows of a batch that a rank computes.
struct RowRange {
  std::int64_t first = 0;  ///< position in the batch
  std::int64_t count = 0;  ///< may be 0 if the batch has fewer rows than there are ranks
};

/// Divides the rows of a batch among ranks: consecutive, in the order of the ranks, and as equal as
/// possible.
/// \param rows of the batch, 0 or more
/// \param rank in [0, size)
/// \param size number of ranks, 1 or more
constexpr RowRange rows_of_rank(std::int64_t rows, std::int64_t rank, std::int64_t size) {
  const std::int64_t first = rows * rank / size;
  return {first, rows * (rank + 1) / size - first};
}

namespace detail {

inline constinit Serial serial;

/// Returns the first communicator among some objects, or `Serial`.
inline Serial& find_communicator() {
  return serial;
}
template <typename First, typename... Others>
auto& find_communicator(First& first, Others&... others) {
  if constexpr (Communicator<First>) {
    return first;
  } else {
    return find_communicator(others...);
  }
}

/// Throws if a communicator among some objects has several processes.
/// \param function the caller that cannot share its work among them
template <typename... Objects>
void require_one_process(std::string_view function, Objects&... objects) {
  if (find_communicator(objects...).size() > 1)
    throw Error("{}: one process only, got several; leave the communicator out", function);
}

/// True for a reference to any communicator but `Serial`.
template <typename Ranks>
constexpr bool is_distributed = !std::same_as<std::remove_cvref_t<Ranks>, Serial>;

/// A reference to a communicator behind one type.
template <Communicator Ranks>
class CommunicatorReference final : public AnyCommunicator {
 public:
  explicit CommunicatorReference(Ranks& ranks) : ranks_(ranks) {}

  std::int64_t rank() override { return ranks_.rank(); }
  std::int64_t size() override { return ranks_.size(); }
  std::int64_t restarts() override { return ranks_.restarts(); }
  void sum_(at::Tensor& tensor) override { ranks_.sum_(tensor); }
  Pending begin(Exchange exchange, at::Tensor& tensor, std::int64_t root) override {
    return ranks_.begin(exchange, tensor, root);
  }

 private:
  Ranks& ranks_;
};

/// Returns the communicator of the innermost `ScopedRanks` of this thread; null if there is none.
inline AnyCommunicator*& current_ranks() {
  static thread_local AnyCommunicator* ranks = nullptr;
  return ranks;
}

}  // namespace detail

/// While it exists, evaluation in this thread (`map_batches`, and what is made of it: `evaluate`,
/// `alarm_scores`, `scan`) is divided among ranks. Each rank computes some of the batches, and all ranks
/// get all results, with the bits that one process gets.
class ScopedRanks {
 public:
  /// \param ranks must outlive this object
  template <Communicator Ranks>
  explicit ScopedRanks(Ranks& ranks)
      : ranks_(std::make_unique<detail::CommunicatorReference<Ranks>>(ranks)),
        before_(std::exchange(detail::current_ranks(), ranks_.get())) {}

  ScopedRanks(const ScopedRanks&) = delete;
  ScopedRanks& operator=(const ScopedRanks&) = delete;

  ~ScopedRanks() { detail::current_ranks() = before_; }

 private:
  std::unique_ptr<AnyCommunicator> ranks_;
  AnyCommunicator* before_;
};

}  // namespace refine::distributed
