#pragma once

#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/figures.hpp>
#include <refine/report/curve.hpp>
#include <refine/report/image_sheet.hpp>

namespace refine::report {

/// Everything a page about a defense says. Only `before` and `after` are needed.
struct DefenseReport {
  std::string title = {};
  std::string dataset = {};
  std::string model = {};
  std::string attack = {};
  std::vector<std::string> class_names = {};  ///< one a class, or none: they are numbered then
  metrics::Figures before = {};               ///< the victim
  metrics::Figures after = {};                ///< the defended model, on the same images
  std::vector<Curve> curves = {};
  std::vector<std::pair<std::string, std::string>> facts =
      {};  ///< recipe, seed, permutation, device, in order
  ImageSheet sheet = {};
};

/// \throws Error when the parts do not fit together
inline void require_complete(const DefenseReport& r) {
  if (r.before.classes < 1 || r.before.classes != r.after.classes || r.before.target != r.after.target ||
      r.before.ba.n != r.after.ba.n) {
    throw Error(
        "cannot report: the figures before are of {} classes and {} images, those after of {} and {}, or "
        "their targets differ; measure both on the same test set under the same attack",
        r.before.classes, r.before.ba.n, r.after.classes, r.after.ba.n);
  }
  if (!r.class_names.empty() && r.class_names.size() != static_cast<std::size_t>(r.before.classes)) {
    throw Error("cannot report: {} class names for {} classes; give one for each, or none",
                r.class_names.size(), r.before.classes);
  }
  for (const Curve& curve : r.curves) {
    if (curve.x.size() == curve.y.size()) continue;
    throw Error("cannot report: the curve '{}' has {} x and {} y; give one y for each x", curve.name,
                curve.x.size(), curve.y.size());
  }
  require_complete(r.sheet);
}

}  // namespace refine::report
