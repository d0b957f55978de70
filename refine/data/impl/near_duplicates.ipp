#pragma once

#include <refine/data/near_duplicates.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/random.hpp>

namespace refine::data {

REFINE_INLINE NearDuplicates::NearDuplicates(const at::Tensor& images)
    : rank_(std::min(rank, images.size(0) - 1)) {
  const c10::NoGradGuard no_grad;
  constexpr std::int64_t side = 8, chunk = 256;
  std::vector<at::Tensor> parts;
  for (std::int64_t begin = 0; begin < images.size(0); begin += chunk) {
    const at::Tensor some = images.slice(0, begin, std::min(begin + chunk, images.size(0)));
    parts.push_back(at::adaptive_avg_pool2d(some.to(at::kCPU).to(at::kFloat) / 255, {side, side}).flatten(1));
  }
  if (parts.empty()) return;
  descriptors_ = at::cat(parts);
  descriptors_ -= descriptors_.mean(0, /*keepdim=*/true);  // less is lost in differences of products
  // A little less, since the distances of copies are not quite 0 after rounding.
  norms_ = descriptors_.square().sum(1) * (1 - 1e-6);
  Random random(derived_seed(default_seed, "near-duplicates"));
  const std::vector<std::int64_t> order = random_permutation(random, images.size(0));
  for (std::int64_t size = images.size(0) / 2; 5 * size > 6 * rank_; size /= 2)
    samples_.push_back(at::tensor(std::vector(order.begin(), order.begin() + size), at::kLong));
}

REFINE_INLINE void NearDuplicates::prepare(std::span<const std::int64_t> images) {
  const c10::NoGradGuard no_grad;
  std::vector<std::int64_t> unknown;
  for (const std::int64_t i : images) {
    if (!found_.contains(i)) unknown.push_back(i);
  }
  if (unknown.empty()) return;
  if (rank_ < 1) {
    for (const std::int64_t i : unknown) found_[i] = {};
    return;
  }
  const std::int64_t n = descriptors_.size(0);
  const auto rows = static_cast<std::size_t>(std::clamp<std::int64_t>((1 << 23) / n, 1, 256));
  for (std::size_t begin = 0; begin < unknown.size(); begin += rows) {
    const std::vector<std::int64_t> some(
        unknown.begin() + static_cast<std::ptrdiff_t>(begin),
        unknown.begin() + static_cast<std::ptrdiff_t>(std::min(begin + rows, unknown.size())));
    const at::Tensor places = at::tensor(some, at::kLong);
    const at::Tensor squares =  // of distances
        (norms_.unsqueeze(0) - 2 * descriptors_.index_select(0, places).matmul(descriptors_.t()) +
         norms_.index_select(0, places).unsqueeze(1))
            .clamp_min_(0);
    const auto limits_among = [&](const at::Tensor& part) {  // the image itself may be the nearest
      return std::get<0>(part.kthvalue(rank_ + 1, 1, /*keepdim=*/true));
    };
    double square = ratio * ratio;
    at::Tensor limits = limits_among(squares) * square;
    for (const at::Tensor& sample : samples_)
      limits = at::maximum(limits, limits_among(squares.index_select(1, sample)) * (square /= 2));
    const at::Tensor near = squares.le(limits);
    for (std::size_t row = 0; row < some.size(); ++row) {
      const auto r = static_cast<std::int64_t>(row);
      const at::Tensor columns = near[r].nonzero().flatten();
      std::vector<std::pair<float, std::int64_t>> neighbours;
      for (std::int64_t k = 0; k < columns.size(0); ++k) {
        const std::int64_t column = columns.const_data_ptr<std::int64_t>()[k];
        if (column != some[row])
          neighbours.emplace_back(squares.const_data_ptr<float>()[r * n + column], column);
      }
      std::ranges::sort(neighbours);
      auto& found = found_[some[row]];
      for (const auto& [distance, place] : neighbours) found.push_back(place);
    }
  }
}

REFINE_INLINE std::vector<std::int64_t> NearDuplicates::group_of(std::int64_t image, std::int64_t max_size) {
  std::vector<std::int64_t> group = {image};
  std::vector<bool> is_member(static_cast<std::size_t>(norms_.size(0)));
  is_member[static_cast<std::size_t>(image)] = true;
  for (std::size_t next = 0; next < group.size(); ++next) {
    constexpr std::size_t batch = 64;  // each image of a large group has the whole group as neighbours
    prepare(std::span(group).subspan(next, std::min(batch, group.size() - next)));
    for (const std::int64_t neighbour : found_[group[next]]) {
      if (static_cast<std::int64_t>(group.size()) >= max_size) return group;
      if (is_member[static_cast<std::size_t>(neighbour)]) continue;
      is_member[static_cast<std::size_t>(neighbour)] = true;
      group.push_back(neighbour);
    }
    found_.erase(group[next]);
  }
  return group;
}

}  // namespace refine::data
