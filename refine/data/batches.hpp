#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>

namespace refine::data {

/// How an epoch is cut into batches:
/// `for (const at::Tensor& indices : Batches{.size = 128}(train.size(), epoch)) …`
///
/// Determinism: the batches of an epoch depend on the fields, the number of images and the epoch alone, so a
/// resumed run sees what the first would have seen.
struct Batches {
  std::int64_t size = 128;
  std::uint64_t seed = default_seed;
  bool shuffle = true;
  bool drop_last = false;  ///< leave out the last batch when it is not full

  friend bool operator==(const Batches&, const Batches&) = default;

  void validate() const {
    if (size < 1) throw Error("cannot make batches of {} images; set a batch size of 1 or more", size);
  }

  /// How many batches `n` images make.
  std::int64_t count(std::int64_t n) const {
    validate();
    return drop_last ? n / size : (n + size - 1) / size;
  }

  /// The batches as int64 index tensors on the host. Without `drop_last`, each index of [0, n) comes exactly
  /// once.
  std::vector<at::Tensor> operator()(std::int64_t n, std::int64_t epoch) const {
    const std::int64_t batches = count(n);
    at::Tensor order = at::arange(n, at::kLong);
    if (shuffle) {
      Random random(derived_seed(seed, "batches", static_cast<std::uint64_t>(epoch)));
      order = at::tensor(random_permutation(random, n));
    }
    std::vector<at::Tensor> cut;
    for (std::int64_t b = 0; b < batches; ++b) {
      cut.push_back(order.narrow(0, b * size, std::min(size, n - b * size)));
    }
    return cut;
  }
};

}  // namespace refine::data
