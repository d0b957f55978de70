#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/nn/module.h>
#include <torch/version.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/distributed/exchange.hpp>
#include <refine/nn/module.hpp>
#include <refine/training/detail/run_state.hpp>
#include <refine/training/recipe.hpp>

// What several ranks exchange in a run.
namespace refine::detail {

/// Tensors of one type and device, as parts of one flat tensor, each in its order in memory.
class FlatTensors {
 public:
  static constexpr std::int64_t all_ranks = -1;

  /// \param root the rank that the exchange names; `all_ranks`: none
  explicit FlatTensors(std::int64_t root = all_ranks) : root_(root) {}

  /// \param like a tensor of the size and strides; non-overlapping and dense
  void add(const at::Tensor& like) {
    likes_.push_back(like);
    offsets_.push_back(elements_);
    elements_ += like.numel();
  }

  std::int64_t root() const { return root_; }
  std::int64_t elements() const { return elements_; }
  std::size_t size() const { return likes_.size(); }
  bool takes(const at::Tensor& like) const {
    return likes_.empty() ||
           (likes_.front().scalar_type() == like.scalar_type() && likes_.front().device() == like.device());
  }

  const at::Tensor& like(std::size_t i) const { return likes_[i]; }
  at::Tensor& flat() { return flat_; }
  void allocate() {
    if (!flat_.defined()) flat_ = at::empty({elements_}, likes_.front().options().requires_grad(false));
  }
  at::Tensor part(std::size_t i) const {
    return flat_.as_strided(likes_[i].sizes(), likes_[i].strides(), offsets_[i]);
  }

 private:
  std::int64_t root_, elements_ = 0;
  std::vector<at::Tensor> likes_;
  std::vector<std::int64_t> offsets_;
  at::Tensor flat_;
};

/// Copies tensors from the ranks that own them to all ranks, in place.
/// \param owners the rank of each tensor
template <distributed::Communicator Ranks>
void copy_from_owners(Ranks& ranks, const std::vector<at::Tensor>& tensors,
                      const std::vector<std::int64_t>& owners) {
  const c10::NoGradGuard no_grad;
  constexpr std::int64_t max_elements = 1 << 22;
  std::vector<FlatTensors> buckets;
  for (std::int64_t rank = 0; rank < ranks.size(); ++rank) {
    bool is_open = false;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (owners[i] != rank) continue;
      if (!is_open || !buckets.back().takes(tensors[i]) || buckets.back().elements() >= max_elements)
        buckets.emplace_back(rank);
      is_open = true;
      buckets.back().add(tensors[i]);
    }
  }
  std::vector<distributed::Pending> pending;
  for (FlatTensors& bucket : buckets) {
    bucket.allocate();
    if (bucket.root() == ranks.rank()) {
      for (std::size_t i = 0; i < bucket.size(); ++i) bucket.part(i).copy_(bucket.like(i));
    }
    pending.push_back(ranks.begin(distributed::Exchange::copy_from, bucket.flat(), bucket.root()));
  }
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    pending[b].wait();
    if (buckets[b].root() == ranks.rank()) continue;
    for (std::size_t i = 0; i < buckets[b].size(); ++i)
      at::Tensor(buckets[b].like(i)).detach().copy_(buckets[b].part(i));
  }
}

/// Copies tensors from rank 0 to all ranks, in place.
template <distributed::Communicator Ranks>
void copy_from_first(Ranks& ranks, const std::map<std::string, at::Tensor>& tensors) {
  std::vector<at::Tensor> dense, others;
  for (const auto& [name, tensor] : tensors)
    (tensor.is_non_overlapping_and_dense() ? dense : others).push_back(tensor.detach());
  copy_from_owners(ranks, dense, std::vector<std::int64_t>(dense.size(), 0));
  const c10::NoGradGuard no_grad;
  for (const at::Tensor& tensor : others) at::Tensor(tensor).copy_(distributed::copy_tensor(ranks, tensor));
}

/// Sums gradients over all ranks in flat buckets. The exchange of a bucket begins as soon as the backward
/// pass has computed its gradients, and runs while it computes others (Li et al., 2020, `li2020ddp`).
template <distributed::Communicator Ranks>
class GradientExchange {
 public:
  /// \param parameters in the order of the module, which the backward pass goes through from the end
  /// \param owners for each parameter the only rank that needs the sum; `FlatTensors::all_ranks`: all do
  GradientExchange(Ranks& ranks, const std::vector<at::Tensor>& parameters,
                   const std::vector<std::int64_t>& owners)
      : ranks_(ranks) {
    constexpr std::int64_t max_elements = 1 << 18;  // 1 MiB: several in a small network, 8 ms at 1 Gbit/s
    std::map<std::int64_t, FlatTensors> open;
    const auto close = [&](std::int64_t owner) {
      if (const auto found = open.find(owner); found != open.end()) {
        buckets_.push_back({std::move(found->second)});
        open.erase(found);
      }
    };
    for (std::size_t i = parameters.size(); i-- > 0;) {
      const at::Tensor& parameter = parameters[i];
      if (const auto found = open.find(owners[i]); found != open.end() && !found->second.takes(parameter))
        close(owners[i]);
      FlatTensors& bucket = open.try_emplace(owners[i], owners[i]).first->second;
      bucket.add(parameter);
      if (bucket.elements() >= max_elements) close(owners[i]);
    }
    while (!open.empty()) close(open.begin()->first);
    for (std::size_t b = 0; b < buckets_.size(); ++b) {
      for (std::size_t i = 0; i < buckets_[b].tensors.size(); ++i)
        torch::autograd::impl::set_post_acc_grad_hooks(buckets_[b].tensors.like(i),
                                                       std::make_unique<Arrival>(*this, b));
    }
  }

  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  ~GradientExchange() {
    for (const Bucket& bucket : buckets_) {
      for (std::size_t i = 0; i < bucket.tensors.size(); ++i)
        torch::autograd::impl::set_post_acc_grad_hooks(bucket.tensors.like(i), nullptr);
    }
  }

  /// Computes the gradients of a loss, and sums them. The parameters' gradients become views of the sums;
  /// where another rank is the owner, they are not the sum.
  void backward(const at::Tensor& loss) {
    for (Bucket& bucket : buckets_) bucket.arrived = 0;
    begun_ = 0;
    is_active_ = true;
    try {
      loss.backward();
    } catch (...) {
      is_active_ = false;
      throw;
    }
    is_active_ = false;
    const c10::NoGradGuard no_grad;
    while (begun_ < buckets_.size()) begin_next();  // with parameters that the loss does not depend on
    for (Bucket& bucket : buckets_) bucket.pending.wait();
    for (Bucket& bucket : buckets_) {
      for (std::size_t i = 0; i < bucket.tensors.size(); ++i) {
        const at::Tensor& parameter = bucket.tensors.like(i);
        if (parameter.grad().defined()) parameter.mutable_grad() = bucket.tensors.part(i);
      }
    }
  }

 private:
  struct Bucket {
    FlatTensors tensors;
    std::size_t arrived = 0;
    distributed::Pending pending = {};
  };

  /// Called when the gradient of a parameter is complete.
  struct Arrival final : torch::autograd::PostAccumulateGradHook {
    Arrival(GradientExchange& e, std::size_t b) : exchange(e), bucket(b) {}
    void operator()(const torch::autograd::Variable&) override { exchange.arrive(bucket); }

    GradientExchange& exchange;
    std::size_t bucket;
  };

  void arrive(std::size_t b) {
    if (!is_active_) return;
    ++buckets_[b].arrived;
    // In one order on all ranks.
    while (begun_ < buckets_.size() && buckets_[begun_].arrived == buckets_[begun_].tensors.size())
      begin_next();
  }

  void begin_next() {
    const c10::NoGradGuard no_grad;
    Bucket& bucket = buckets_[begun_++];
    bucket.tensors.allocate();
    for (std::size_t i = 0; i < bucket.tensors.size(); ++i) {
      const at::Tensor& gradient = bucket.tensors.like(i).grad();
      gradient.defined() ? bucket.tensors.part(i).copy_(gradient) : bucket.tensors.part(i).zero_();
    }
    const bool has_owner = bucket.tensors.root() != FlatTensors::all_ranks;
    bucket.pending = ranks_.begin(has_owner ? distributed::Exchange::sum_on : distributed::Exchange::sum,
                                  bucket.tensors.flat(), has_owner ? bucket.tensors.root() : 0);
  }

  Ranks& ranks_;
  std::vector<Bucket> buckets_;
  std::size_t begun_ = 0;
  bool is_active_ = false;
};

/// Returns a text that differs, almost certainly, for other tensors: their shapes, and of each the bytes
/// of at most 64 rows, since reading all images of a large file would take long.
inline std::string describe_sample(const std::map<std::string, at::Tensor>& tensors) {
  const c10::NoGradGuard no_grad;
  constexpr std::int64_t max_rows = 64;
  std::string text;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined()) continue;
    const at::Tensor matrix = tensor.dim() == 0 ? tensor.detach().reshape({1}) : tensor.detach();
    const std::int64_t rows = matrix.size(0), samples = std::min(rows, max_rows);
    std::size_t digest = 0;
    for (std::int64_t i = 0; i < samples; ++i) {
      const at::Tensor row = matrix.select(0, i * rows / samples).to(at::kCPU).contiguous();
      const std::string_view bytes(static_cast<const char*>(row.const_data_ptr()), row.nbytes());
      digest = 31 * digest + std::hash<std::string_view>{}(bytes);
    }
    text += fmt::format("{} {} [{}] {:x}\n", name, c10::toString(tensor.scalar_type()),
                        fmt::join(tensor.sizes(), ", "), digest);
  }
  return text;
}

/// Checks that all ranks train the same, and that every batch has an image for each of them.
/// \param images number of training images
template <distributed::Communicator Ranks>
void check_run(Ranks& ranks, const RunIdentity& identity, const torch::nn::Module& module,
               std::int64_t images, const Optimization& optimization) {
  distributed::check_equal(ranks, "version of the library", fmt::format("{} {}", version, TORCH_VERSION));
  distributed::check_equal(ranks, "run", identity.run);
  distributed::check_equal(ranks, "recipe", identity.recipe);
  distributed::check_equal(ranks, "objective", identity.objective);
  distributed::check_equal(ranks, "pixel domain", identity.domain);
  distributed::check_equal(ranks, "training data", describe_sample(identity.data) + identity.required);
  distributed::check_equal(ranks, "victim", describe_sample(identity.victim));
  std::string shapes = identity.network + describe_sample(identity.constants);
  for (const auto& [name, tensor] : nn::state_dict(module))
    shapes += fmt::format("{} {} [{}]\n", name, c10::toString(tensor.scalar_type()),
                          fmt::join(tensor.sizes(), ", "));
  distributed::check_equal(ranks, "network", shapes);
  const std::int64_t rest = images % optimization.batch_size;
  const std::int64_t smallest = images < optimization.batch_size ? images
                                : rest > 1                       ? rest
                                                                 : optimization.batch_size;
  // BatchNorm of each rank learns nothing from one image.
  const std::int64_t needed = optimization.sync_batch_norm ? 1 : 2;
  if (smallest < needed * ranks.size()) {
    throw Error(
        "recipe.optimization.batch_size: the smallest batch of an epoch must have {} for each rank (got {} images, {} "
        "ranks); choose another batch size",
        needed == 1 ? "an image" : "two images", smallest, ranks.size());
  }
}

/// Gives all ranks the state of rank 0, which may have been read from a checkpoint.
template <distributed::Communicator Ranks>
void copy_state(Ranks& ranks, RunState& state) {
  std::string text = fmt::format("{} {} {}", state.step, state.collapsed, state.seconds);
  for (const EpochInfo& e : state.history)
    text += fmt::format(" {} {} {} {} {}", e.epoch, e.loss, e.accuracy, e.lr, e.seconds);
  std::istringstream in(distributed::copy_text(ranks, text));
  std::vector<double> numbers;
  for (std::string word; in >> word;) {
    const std::optional<double> number = parse_number<double>(word);
    if (!number) throw Error("rank {}: the state of rank 0 has '{}' for a number", ranks.rank(), word);
    numbers.push_back(*number);
  }
  state.step = static_cast<std::int64_t>(numbers[0]);
  state.collapsed = static_cast<std::int64_t>(numbers[1]);
  state.seconds = numbers[2];
  state.history.clear();
  for (std::size_t i = 3; i < numbers.size(); i += 5) {
    state.history.push_back({.epoch = static_cast<int>(numbers[i]),
                             .loss = numbers[i + 1],
                             .accuracy = numbers[i + 2],
                             .lr = numbers[i + 3],
                             .seconds = numbers[i + 4]});
  }
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : state.tensors) {
    if (state.step > 0 || name.starts_with("module.")) tensors.emplace(name, tensor);
  }
  copy_from_first(ranks, tensors);
}

}  // namespace refine::detail
