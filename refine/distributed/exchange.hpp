#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/distributed/communicator.hpp>

/// \file
/// What ranks do together, made of the exchanges of a `Communicator`. All ranks make the same calls in
/// the same order.

namespace refine::distributed {

/// Returns the rows of a whole batch, on every rank, from the rows of each.
/// \param part count×…, the rows of this rank
/// \param own which these are
/// \param total rows of the batch
/// \return total×…
template <Communicator Ranks>
at::Tensor gather_rows(Ranks& ranks, const at::Tensor& part, const RowRange& own, std::int64_t total) {
  const c10::NoGradGuard no_grad;
  std::vector<std::int64_t> sizes = part.sizes().vec();
  sizes.front() = total;
  at::Tensor all = at::zeros(sizes, part.options());
  all.narrow(0, own.first, own.count).copy_(part);
  ranks.sum_(all);
  return all;
}

/// Returns K values of each rank, ranks×K.
template <Communicator Ranks>
at::Tensor stack(Ranks& ranks, const at::Tensor& row) {
  return gather_rows(ranks, row.unsqueeze(0), {ranks.rank(), 1}, ranks.size());
}

/// Returns the text of a rank, on every rank.
/// \param text of `root`; that of other ranks is ignored
template <Communicator Ranks>
std::string copy_text(Ranks& ranks, const std::string& text, std::int64_t root = 0) {
  if (ranks.size() == 1) return text;
  const bool is_root = ranks.rank() == root;
  at::Tensor size = at::zeros({1}, at::kLong);
  if (is_root) size.fill_(static_cast<std::int64_t>(text.size()));
  ranks.sum_(size);
  at::Tensor bytes = at::zeros({size.item<std::int64_t>()}, at::kByte);
  if (bytes.numel() == 0) return {};
  if (is_root) std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  ranks.sum_(bytes);
  return std::string(static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes());
}

/// Returns a number of rank 0, on every rank.
template <Communicator Ranks>
std::int64_t copy_number(Ranks& ranks, std::int64_t number) {
  if (ranks.size() == 1) return number;
  at::Tensor all = at::zeros({1}, at::kLong);
  if (ranks.rank() == 0) all.fill_(number);
  ranks.sum_(all);
  return all.item<std::int64_t>();
}

/// Waits until all ranks call it.
template <Communicator Ranks>
void wait_for_all(Ranks& ranks) {
  if (ranks.size() > 1) copy_number(ranks, 0);
}

/// Runs a function on rank 0, such as one that writes files, while the others wait.
/// \param work called on rank 0
/// \throws what `work` throws on rank 0, and on the others an Error with its text
template <Communicator Ranks, typename Work>
void on_first_rank(Ranks& ranks, Work&& work) {
  if (ranks.size() == 1) return work();
  if (ranks.rank() == 0) {
    try {
      work();
    } catch (const std::exception& error) {
      const std::string line = text::one_line(error.what());
      copy_text(ranks, line.empty() ? "rank 0 has failed" : line);
      throw;
    } catch (...) {
      copy_text(ranks, "rank 0 has failed");
      throw;
    }
    copy_text(ranks, "");
    return;
  }
  if (const std::string error = copy_text(ranks, ""); !error.empty()) throw Error("{}", error);
}

/// True if something holds on any rank.
template <Communicator Ranks>
bool holds_on_any(Ranks& ranks, bool holds) {
  if (ranks.size() == 1) return holds;
  at::Tensor count = at::zeros({1}, at::kLong);
  count.fill_(holds ? 1 : 0);
  ranks.sum_(count);
  return count.item<std::int64_t>() > 0;
}

/// Checks that a text is the same on every rank.
/// \param what names the text, for the message
/// \param text of any length
/// \throws Error on every rank if one differs
template <Communicator Ranks>
void check_equal(Ranks& ranks, std::string_view what, std::string_view text) {
  if (ranks.size() == 1) return;
  at::Tensor digests = at::zeros({ranks.size()}, at::kLong);
  auto* const digest = digests.mutable_data_ptr<std::int64_t>();
  digest[ranks.rank()] = static_cast<std::int64_t>(std::hash<std::string_view>{}(text));
  ranks.sum_(digests);
  for (std::int64_t other = 1; other < ranks.size(); ++other) {
    if (digest[other] == digest[0]) continue;
    throw Error(
        "rank {} of {}: the {} of ranks 0 and {} differ; start all ranks with the same program and arguments",
        ranks.rank(), ranks.size(), what, other);
  }
}

/// Returns a tensor of a rank, on every rank, also where its shape is not known.
/// \param tensor of `root`, dense, of at most 16 dimensions; that of other ranks is ignored
/// \return on the host
/// \throws Error on every rank if it has more dimensions
template <Communicator Ranks>
at::Tensor copy_tensor(Ranks& ranks, const at::Tensor& tensor, std::int64_t root = 0) {
  if (ranks.size() == 1) return tensor;
  const c10::NoGradGuard no_grad;
  constexpr std::int64_t max_dims = 16;
  at::Tensor shape = at::zeros({2 + max_dims}, at::kLong);
  auto* const numbers = shape.mutable_data_ptr<std::int64_t>();
  const bool is_root = ranks.rank() == root;
  if (is_root && tensor.defined()) {
    numbers[0] = static_cast<std::int64_t>(tensor.scalar_type());
    numbers[1] = tensor.dim();
    if (tensor.dim() <= max_dims) std::copy(tensor.sizes().begin(), tensor.sizes().end(), numbers + 2);
  } else if (is_root) {
    numbers[1] = -1;
  }
  ranks.sum_(shape);
  if (numbers[1] < 0) return {};
  if (numbers[1] > max_dims) {
    throw Error("copy_tensor: the tensor must have at most {} dimensions, got {}; reshape it", max_dims,
                numbers[1]);
  }
  at::Tensor values = is_root ? tensor.cpu().clone(at::MemoryFormat::Contiguous)
                              : at::zeros(at::IntArrayRef(numbers + 2, static_cast<std::size_t>(numbers[1])),
                                          static_cast<at::ScalarType>(numbers[0]));
  ranks.begin(Exchange::copy_from, values, root).wait();
  return values;
}

}  // namespace refine::distributed
