// What ranks exchange, with a fake communicator: rank 0 runs first, and rank 1 gets what it has sent.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/distributed/exchange.hpp>

#include "tests/support/error_of.hpp"

namespace refine::distributed {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

/// A rank of two. Sums are those of tensors that are zero on rank 1.
struct Rank {
  std::int64_t number;
  std::vector<at::Tensor>& sent;
  std::size_t received = 0;

  std::int64_t rank() const { return number; }
  static constexpr std::int64_t size() { return 2; }
  static constexpr std::int64_t restarts() { return 0; }

  void sum_(at::Tensor& tensor) {
    if (number == 0) {
      sent.push_back(tensor.clone());
    } else if (received == sent.size()) {
      throw std::logic_error("rank 1 waits for rank 0 for ever");
    } else {
      tensor.copy_(sent[received++]);
    }
  }

  Pending begin(Exchange, at::Tensor& tensor, std::int64_t) {
    sum_(tensor);
    return {};
  }
};

static_assert(Communicator<Rank>);

/// Returns the error of rank 1 when the work of rank 0 throws an exception.
template <typename Exception>
std::string error_of_other_rank(const Exception& exception) {
  std::vector<at::Tensor> sent;
  Rank first{0, sent}, other{1, sent};
  EXPECT_THROW(on_first_rank(first, [&] { throw exception; }), Exception);
  return error_of([&] { on_first_rank(other, [] { ADD_FAILURE() << "rank 1 does no work"; }); });
}

TEST(OnFirstRank, AnyException_ReachesTheOtherRanks) {
  EXPECT_EQ(error_of_other_rank(Error("images: none")), "images: none");
  EXPECT_EQ(error_of_other_rank(std::runtime_error("first line\nsecond line")), "first line");
  expect_words(error_of_other_rank(std::bad_alloc()), {"bad_alloc"});
  expect_words(error_of_other_rank(std::filesystem::filesystem_error(
                   "cannot list", "folder", std::make_error_code(std::errc::permission_denied))),
               {"cannot list", "folder"});
  EXPECT_NE(error_of_other_rank(std::runtime_error("")), "");
  EXPECT_NE(error_of_other_rank(7), "");
}

TEST(CopyTensor, SixteenDimensions_AreTheMost) {
  for (const std::int64_t dims : {0, 1, 16, 17, 64}) {
    std::vector<std::int64_t> shape(static_cast<std::size_t>(dims), 1);
    if (dims > 0) shape.back() = 3;
    const at::Tensor tensor = at::arange(dims > 0 ? 3 : 1).view(shape);
    std::vector<at::Tensor> sent;
    for (const std::int64_t number : {0, 1}) {
      Rank rank{number, sent};
      at::Tensor copy;
      const std::string error =
          error_of([&] { copy = copy_tensor(rank, number == 0 ? tensor : at::Tensor()); });
      if (dims <= 16) {
        EXPECT_EQ(error, "");
        EXPECT_TRUE(copy.equal(tensor)) << dims;
      } else {
        expect_words(error, {"at most 16 dimensions", "got " + std::to_string(dims)});
      }
    }
  }
}

}  // namespace
}  // namespace refine::distributed
