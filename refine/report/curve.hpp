#pragma once

#include <string>
#include <vector>

namespace refine::report {

/// A figure over the course of a training. `x` and `y` are of one length; a `y` that is not finite leaves a
/// gap.
struct Curve {
  std::string name;     ///< "defense loss"
  std::string unit;     ///< of y: "%", "nats"; may be empty
  std::string x_label;  ///< "epoch"
  std::vector<double> x;
  std::vector<double> y;
};

}  // namespace refine::report
