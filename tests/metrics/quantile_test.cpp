#include <refine/metrics/quantile.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace refine::metrics {
namespace {

TEST(Quantile, ValuesInAnyOrder_AreInterpolated) {
  const std::vector<double> values = {4, 1, 3, 2};
  EXPECT_DOUBLE_EQ(quantile(values, 0), 1);
  EXPECT_DOUBLE_EQ(quantile(values, 1), 4);
  EXPECT_DOUBLE_EQ(quantile(values, 0.25), 1.75);  // as numpy.quantile
  EXPECT_DOUBLE_EQ(median(values), 2.5);
  EXPECT_DOUBLE_EQ(median({5, 1, 9}), 5);
  EXPECT_DOUBLE_EQ(quantile({7}, 0.3), 7);
  EXPECT_TRUE(std::isnan(median({})));
}

TEST(Quartiles, Values_GiveMedianAndSpread) {
  const Quartiles q = quartiles({10, 30, 20, 50, 40});
  EXPECT_DOUBLE_EQ(q.low, 20);
  EXPECT_DOUBLE_EQ(q.median, 30);
  EXPECT_DOUBLE_EQ(q.high, 40);
  EXPECT_EQ(q.n, 5u);
}

}  // namespace
}  // namespace refine::metrics
