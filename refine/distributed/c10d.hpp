#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/distributed/communicator.hpp>

namespace refine::distributed {

namespace detail {
class Group;  // impl/c10d.ipp
}

/// How a process joins the others. All times are at most a year.
struct C10dOptions {
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(25);  ///< for all ranks to start
  /// A rank that waits for another one gives up if that one's process shows no sign of life for this
  /// long: it was stopped, or the network is cut. More than 2 s.
  std::chrono::milliseconds silence = std::chrono::seconds(12);
  /// Longest time that a rank waits in one exchange for ranks whose processes live. It must exceed the
  /// time by which two ranks can differ, such as while rank 0 decodes images into a store.
  std::chrono::milliseconds timeout = std::chrono::hours(2);
};

/// A communicator on LibTorch's c10d with Gloo, over TCP. Tensors of other devices pass through the
/// host's memory. Copies share the connection.
///
///     auto ranks = distributed::C10d::from_environment();
///     fit(defense, images, recipe, ranks, ProgressBar{});
class C10d {
 public:
  /// A single rank.
  C10d() = default;

  /// Joins the processes that a launcher has started. Reads `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and
  /// `MASTER_PORT`, as torchrun sets them. In place of the first two, the variables of Open MPI
  /// (`OMPI_COMM_WORLD_RANK`, `…_SIZE`) or Slurm (`SLURM_PROCID`, `SLURM_NTASKS`) serve; the last
  /// two must be set. With `WORLD_SIZE=1`, nothing is connected. `GLOO_SOCKET_IFNAME` chooses the
  /// network interface.
  /// \param options time limits
  /// \throws Error if a time is out of range, a variable is missing or malformed, the others cannot be
  ///   reached in time, or the library was compiled without Gloo's headers
  REFINE_INLINE static C10d from_environment(const C10dOptions& options = {});

  /// Does the same if the program was started as one of several ranks, else returns a single rank. A
  /// launcher is recognized by `WORLD_SIZE` or `RANK`, by Open MPI's variables, or by `SLURM_PROCID`
  /// together with `MASTER_ADDR`: Slurm sets its own variables for programs of one process, too.
  /// \param options time limits
  /// \throws Error as `from_environment`
  REFINE_INLINE static C10d from_environment_or_single(const C10dOptions& options = {});

  /// Returns the number of ranks that the environment specifies; 1 if the program was not started as one of
  /// several, see `from_environment_or_single`.
  /// \throws Error if a variable is missing or malformed
  REFINE_INLINE static std::int64_t size_in_environment();

  /// True if the library was compiled with Gloo's headers.
  REFINE_INLINE static bool is_available();

  /// Returns the number of this process, from 0.
  std::int64_t rank() const { return rank_; }

  /// Returns the number of processes.
  std::int64_t size() const { return size_; }

  /// Returns the number of this process on its machine, from 0: `LOCAL_RANK`, or what Open MPI or Slurm
  /// set; 0 if none is set.
  REFINE_INLINE std::int64_t local_rank() const;

  /// Returns how often torchrun has started the processes again after a failure, the same on all ranks.
  REFINE_INLINE std::int64_t restarts() const;

  /// Replaces a tensor by the sum over all ranks.
  /// \param tensor dense, of the same shape and type on every rank
  /// \throws Error that names the ranks which do not answer
  REFINE_INLINE void sum_(at::Tensor& tensor) const;

  /// Begins an exchange, see `Communicator`. Exchanges that run at the same time have a connection of
  /// their own, so that `sum_` does not wait for them. What is returned keeps the connection open.
  REFINE_INLINE Pending begin(Exchange exchange, at::Tensor& tensor, std::int64_t root) const;

  /// Returns the bytes of the tensors that this rank has exchanged so far.
  REFINE_INLINE std::int64_t bytes_exchanged() const;

 private:
  C10d(std::int64_t rank, std::int64_t size, std::shared_ptr<detail::Group> group)
      : rank_(rank), size_(size), group_(std::move(group)) {}

  std::int64_t rank_ = 0, size_ = 1;
  std::int64_t restarts_ = 0;             ///< of a single rank
  std::shared_ptr<detail::Group> group_;  ///< null for a single rank
};

static_assert(Communicator<C10d>);

}  // namespace refine::distributed

#if !defined(REFINE_COMPILED_LIB)
#include <refine/distributed/impl/c10d.ipp>
#endif
