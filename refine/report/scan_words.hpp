#pragma once

#include <string>
#include <vector>

#include <refine/report/defense_report.hpp>

/// How a scan is read, the same on the terminal and on the page.
namespace refine::report {

/// A small trigger that moves more than half of the images to one class was no accident.
inline constexpr double scan_finding = 0.5;

/// For a change of the whole image: strong noise alone sends most images of some data to one class, without
/// any backdoor.
inline constexpr double scan_finding_whole = 0.9;

/// Whether a guessed trigger moves more than an accident would, beyond what chance leaves open.
bool works(const metrics::Lift& lift, bool local);

/// The class that a guessed trigger lifts most, without and with the defense.
struct Guess {
  std::string trigger;
  metrics::Lift before = {};
  metrics::Lift after = {};
  bool local = true;

  bool works_before() const { return works(before, local); }
  bool works_after() const { return works(after, local); }
};

/// One for each trigger of the scan, those that lift a class most, before or after, first.
std::vector<Guess> guesses(const DefenseReport& r);

namespace detail {

/// “ship” by 97.0 points
std::string lifted(const DefenseReport& r, const metrics::Lift& lift);

}  // namespace detail

/// What the scan says, in a sentence or two of plain text; empty where there was none.
std::string scan_sentence(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/scan_words_definitions.hpp>
#endif
