#pragma once

// What read_figures.hpp declares.

#include <refine/report/read_figures.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <refine/core/compiled.hpp>

namespace refine::report::detail {

REFINE_DEFINITION metrics::Proportion read_proportion(const MetricsNode& node) {
  metrics::Proportion p;
  p.n = node["n"].count();
  p.hits = node["hits"].count(p.n);
  node["value"].require_figure(p.value());
  return p;
}

REFINE_DEFINITION metrics::Lift read_lift(const MetricsNode& node, int classes) {
  metrics::Lift lift;
  lift.n = node["n"].count();
  lift.cls = static_cast<int>(node["class"].whole(0, classes - 1));
  lift.with_trigger = node["with_trigger"].count(lift.n);
  lift.without_trigger = node["without_trigger"].count(lift.n);
  lift.gained = node["gained"].count(lift.with_trigger);
  lift.lost = node["lost"].count(lift.without_trigger);
  if (lift.with_trigger - lift.without_trigger != lift.gained - lift.lost) {
    node.refuse("gains {} and loses {}, but goes from {} to {}", lift.gained, lift.lost, lift.without_trigger,
                lift.with_trigger);
  }
  node["value"].require_figure(lift.value());
  return lift;
}

REFINE_DEFINITION metrics::Lift read_lift_row(const MetricsNode& row, int cls) {
  if (row.size() != 5) row.refuse("has {} entries, not 5", row.size());
  metrics::Lift lift{.cls = cls};
  lift.n = row[4].count();
  lift.with_trigger = row[std::size_t{0}].count(lift.n);
  lift.without_trigger = row[1].count(lift.n);
  lift.gained = row[2].count(lift.with_trigger);
  lift.lost = row[3].count(lift.without_trigger);
  if (lift.with_trigger - lift.without_trigger != lift.gained - lift.lost) {
    row.refuse("gains {} and loses {}, but goes from {} to {}", lift.gained, lift.lost, lift.without_trigger,
               lift.with_trigger);
  }
  return lift;
}

REFINE_DEFINITION std::vector<metrics::Lift> read_lifts(const MetricsNode& node, int classes,
                                                        bool short_form) {
  if (node.size() != static_cast<std::size_t>(classes)) node.refuse("has not one lift for each class");
  std::vector<metrics::Lift> lifts;
  for (std::size_t c = 0; c < node.size(); ++c) {
    if (short_form) {
      lifts.push_back(read_lift_row(node[c], static_cast<int>(c)));
      continue;
    }
    lifts.push_back(read_lift(node[c], classes));
    if (lifts.back().cls != static_cast<int>(c)) node[c]["class"].refuse("is not {}", c);
  }
  return lifts;
}

/// The counts of a matrix that are not 0, in the order of its rows (schema 2).
REFINE_DEFINITION metrics::ConfusionMatrix read_cells(const MetricsNode& node, int classes) {
  metrics::ConfusionMatrix counts = metrics::ConfusionMatrix::Zero(classes, classes);
  std::int64_t before = -1;
  for (std::size_t i = 0; i < node.size(); ++i) {
    const MetricsNode cell = node[i];
    if (cell.size() != 3) cell.refuse("has {} entries, not 3", cell.size());
    const std::int64_t r = cell[std::size_t{0}].whole(0, classes - 1), c = cell[1].whole(0, classes - 1);
    if (r * classes + c <= before) cell.refuse("is not in the order of the rows");
    before = r * classes + c;
    counts(r, c) = cell[2].count();
  }
  return counts;
}

/// classes × classes, or empty.
REFINE_DEFINITION metrics::ConfusionMatrix read_matrix(const MetricsNode& node, int classes, bool cells) {
  if (node.size() == 0) return {};
  if (cells) return read_cells(node, classes);
  const auto side = static_cast<std::size_t>(classes);
  if (node.size() != side) node.refuse("has {} rows for {} classes", node.size(), side);
  for (std::size_t r = 0; r < side; ++r) {  // before memory is taken for it
    if (node[r].size() != side) node[r].refuse("has not one count for each class");
  }
  metrics::ConfusionMatrix counts(classes, classes);
  for (int r = 0; r < classes; ++r) {
    const MetricsNode row = node[static_cast<std::size_t>(r)];
    for (int c = 0; c < classes; ++c) counts(r, c) = row[static_cast<std::size_t>(c)].count();
  }
  return counts;
}

REFINE_DEFINITION void require_same(const MetricsNode& node, const metrics::Proportion& counted) {
  if (const auto said = read_proportion(node); said != counted) {
    node.refuse("is {} of {}, the confusion matrices say {} of {}", said.hits, said.n, counted.hits,
                counted.n);
  }
}

REFINE_DEFINITION metrics::Figures read_figures(const MetricsNode& node, int classes,
                                                std::optional<int> target, bool short_form) {
  metrics::Figures f{.classes = classes, .target = target};
  f.clean = read_matrix(node["confusion"]["clean"], classes, short_form);
  f.triggered = read_matrix(node["confusion"]["triggered"], classes, short_form);
  f.ba = {.hits = f.clean.trace(), .n = f.clean.sum()};
  require_same(node["ba"], f.ba);
  f.ra = {.hits = f.triggered.trace(), .n = f.triggered.sum()};
  if (target && f.triggered.size() > 0) {
    const std::int64_t right = f.triggered(*target, *target);
    f.ra.hits -= right;
    f.ra.n -= f.triggered.row(*target).sum();
    f.asr = {.hits = f.triggered.col(*target).sum() - right, .n = f.ra.n};
  }
  require_same(node["asr"], f.asr);
  require_same(node["ra"], f.ra);
  if (f.triggered.size() == 0) {
    if (node["lifts"].size() > 0) node["lifts"].refuse("is there without triggered images");
    return f;
  }
  if (f.clean.size() == 0) node.refuse("has triggered images and no clean ones");
  if (f.triggered.rowwise().sum() != f.clean.rowwise().sum()) {
    node["confusion"].refuse("is not of the same images, clean and triggered");
  }
  f.lifts = read_lifts(node["lifts"], classes, short_form);
  const auto others = [&](const metrics::ConfusionMatrix& counts, int c) {
    return counts.col(c).sum() - (target ? counts(*target, c) : 0);
  };
  for (int c = 0; c < classes; ++c) {
    const metrics::Lift& lift = f.lifts[static_cast<std::size_t>(c)];
    if (lift.n != f.ra.n || lift.with_trigger != others(f.triggered, c) ||
        lift.without_trigger != others(f.clean, c)) {
      node["lifts"][static_cast<std::size_t>(c)].refuse("is not what the confusion matrices say");
    }
  }
  f.largest_lift = metrics::largest_lift(f.lifts);
  if (read_lift(node["largest_lift"], classes) != f.largest_lift) {
    node["largest_lift"].refuse("is not the largest of the lifts");
  }
  return f;
}

}  // namespace refine::report::detail
