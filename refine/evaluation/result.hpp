#pragma once

#include <string>
#include <vector>

#include <refine/metrics/der.hpp>
#include <refine/metrics/figures.hpp>

namespace refine {

/// A defense measured: the victim's figures without it and with it, on the same images.
/// `std::cout << evaluation` prints them as a table (`refine/report/evaluation_table.hpp`).
struct Evaluation {
  std::vector<std::string> classes;
  metrics::Figures before = {}, after = {};

  double der() const { return metrics::defense_effectiveness(before, after); }
};

}  // namespace refine
