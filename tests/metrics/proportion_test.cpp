#include <refine/metrics/proportion.hpp>

#include <gtest/gtest.h>

#include <cmath>

namespace refine::metrics {
namespace {

TEST(Proportion, Wilson_EqualsPublishedValues) {
  // Newcombe (1998), Table I, method 3.
  struct Case {
    Proportion proportion;
    double low, high;
  };
  for (const auto& [p, low, high] : {Case{{81, 263}, 0.2553, 0.3662}, Case{{15, 148}, 0.0624, 0.1605},
                                     Case{{0, 20}, 0.0000, 0.1611}, Case{{1, 29}, 0.0061, 0.1718}}) {
    EXPECT_NEAR(p.wilson().low, low, 5e-5) << p.hits << " of " << p.n;
    EXPECT_NEAR(p.wilson().high, high, 5e-5) << p.hits << " of " << p.n;
  }
}

TEST(Proportion, WilsonEnds_SolveTheScoreEquation) {
  // The ends are the p0 at which the test of p0 just rejects: (p - p0)^2 = z^2 p0 (1 - p0) / n.
  for (const Proportion p :
       {Proportion{1, 2}, Proportion{7, 9}, Proportion{70, 9000}, Proportion{9139, 10000}}) {
    for (double z : {1.0, z95, 3.0}) {
      const auto [low, high] = p.wilson(z);
      EXPECT_LT(low, p.value());
      EXPECT_GT(high, p.value());
      for (double end : {low, high}) {
        EXPECT_NEAR(std::pow(p.value() - end, 2), z * z * end * (1 - end) / static_cast<double>(p.n), 1e-12);
      }
    }
  }
}

TEST(Proportion, WilsonAtZeroAndOne_IsExactAndSymmetric) {
  for (std::int64_t n : {1, 3, 10, 9000}) {
    EXPECT_EQ((Proportion{0, n}.wilson().low), 0.0);
    EXPECT_EQ((Proportion{n, n}.wilson().high), 1.0);
    EXPECT_NEAR((Proportion{0, n}.wilson().high), 1 - (Proportion{n, n}.wilson().low), 1e-12);
    EXPECT_NEAR((Proportion{0, n}.wilson().high), z95 * z95 / (static_cast<double>(n) + z95 * z95), 1e-12);
  }
}

TEST(Proportion, TotalOfZero_IsNaN) {
  EXPECT_TRUE(std::isnan(Proportion{}.value()));
  EXPECT_TRUE(std::isnan(Proportion{}.wilson().low));
  EXPECT_TRUE(std::isnan(Proportion{}.wilson().high));
  EXPECT_EQ((Proportion{3, 4}.value()), 0.75);
}

}  // namespace
}  // namespace refine::metrics
