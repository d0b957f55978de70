#include <refine/metrics/proportion.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

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

// Abramowitz and Stegun (1972), tables 26.5 and 26.6: the x for which Q(x) is the tail.
TEST(UpperQuantile, PublishedTails_GiveThePublishedQuantiles) {
  for (const auto& [tail, quantile] : {std::pair{0.5, 0.0},
                                       {0.25, 0.67449},
                                       {0.1, 1.28155},
                                       {0.05, 1.64485},
                                       {0.025, 1.95996},
                                       {0.01, 2.32635},
                                       {0.005, 2.57583},
                                       {0.001, 3.09023},
                                       {0.0005, 3.29053},
                                       {1e-4, 3.71902},
                                       {1e-5, 4.26489},
                                       {1e-6, 4.75342},
                                       {1e-7, 5.19934},
                                       {1e-8, 5.61200},
                                       {1e-9, 5.99781}}) {
    EXPECT_NEAR(upper_quantile(tail), quantile, 6e-6) << tail;
  }
  EXPECT_NEAR(upper_quantile(0.025), z95, 1e-14);
}

TEST(Z95OfLargest, Count_IsTheCorrectedQuantile) {
  EXPECT_NEAR(z95_of_largest(1), z95, 1e-14);
  EXPECT_NEAR(z95_of_largest(25), 3.09023, 6e-6);  // 0.025 / 25 = 0.001
  EXPECT_NEAR(z95_of_largest(250'000), 5.19934, 6e-6);
  // The largest number of pairs that a file may have: 30,000 classes.
  EXPECT_NEAR(std::erfc(z95_of_largest(899'970'000) / std::sqrt(2)) / 2, 0.025 / 899'970'000, 1e-20);
}

}  // namespace
}  // namespace refine::metrics
