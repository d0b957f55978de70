#pragma once

#include <ostream>

#include <refine/evaluation/result.hpp>
#include <refine/report/terminal_table.hpp>

namespace refine {

/// The terminal table: BA, ASR, RA and the largest lift, before and after, with their counts and intervals;
/// DER.
inline std::ostream& operator<<(std::ostream& out, const Evaluation& evaluation) {
  return out << report::terminal_table(
             {.class_names = evaluation.classes, .before = evaluation.before, .after = evaluation.after});
}

}  // namespace refine
