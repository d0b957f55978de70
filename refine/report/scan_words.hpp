#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <fmt/core.h>

#include <refine/metrics/scan_entry.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/words.hpp>

/// How a scan is read, the same on the terminal and on the page.
namespace refine::report {

/// A small trigger that moves more than half of the images to one class was no accident.
inline constexpr double scan_finding = 0.5;

/// For a change of the whole image: strong noise alone sends most images of some data to one class, without
/// any backdoor.
inline constexpr double scan_finding_whole = 0.9;

/// Whether a guessed trigger moves more than an accident would, beyond what chance leaves open.
inline bool works(const metrics::Lift& lift, bool local) {
  return lift.n > 0 && lift.interval().low > (local ? scan_finding : scan_finding_whole);
}

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
inline std::vector<Guess> guesses(const DefenseReport& r) {
  std::vector<Guess> all;
  for (const metrics::ScanEntry& entry : r.scan) {
    all.push_back(
        {entry.trigger, metrics::strongest(entry.before), metrics::strongest(entry.after), entry.local});
  }
  const auto most = [](const Guess& g) {
    return std::max(g.before.n > 0 ? g.before.value() : -1, g.after.n > 0 ? g.after.value() : -1);
  };
  std::ranges::stable_sort(all, [&](const Guess& a, const Guess& b) { return most(a) > most(b); });
  return all;
}

namespace detail {

/// The guess with the largest lift on one side. \pre not empty
inline const Guess& foremost(const std::vector<Guess>& all, metrics::Lift Guess::*side) {
  return *std::ranges::max_element(all, {}, [&](const Guess& g) {
    const metrics::Lift& lift = g.*side;
    return lift.n > 0 ? lift.value() : -1;
  });
}

/// “ship” by 97.0 points
inline std::string lifted(const DefenseReport& r, const metrics::Lift& lift) {
  return fmt::format("“{}” by {} points", words::class_name(r.class_names, lift.cls),
                     words::hundredths(lift.value(), 1));
}

}  // namespace detail

/// What the scan says, in a sentence or two of plain text; empty where there was none.
inline std::string scan_sentence(const DefenseReport& r) {
  const std::vector<Guess> all = guesses(r);
  if (all.empty()) return "";
  const Guess& before = detail::foremost(all, &Guess::before);
  const Guess& after = detail::foremost(all, &Guess::after);
  if (before.before.n == 0) return "The scan saw no images.";
  const auto tried = fmt::format("Of {} common trigger{}", all.size(), all.size() == 1 ? "" : "s");
  std::string text;
  if (const auto count = std::ranges::count_if(all, &Guess::works_before); count > 0) {
    const Guess& found = *std::ranges::find_if(all, &Guess::works_before);
    text = fmt::format("{}, {} on the victim; the strongest, {}, lifts {} before", tried,
                       count == 1 ? "one works" : fmt::format("{} work", count), found.trigger,
                       detail::lifted(r, found.before));
    text += fmt::format(" and {} after the defense.", detail::lifted(r, found.after));
    if (&after != &found) {
      text += fmt::format(" The most that any of them lifts after it is {} ({}).",
                          detail::lifted(r, after.after), after.trigger);
    }
  } else {
    text = fmt::format(
        "{}, tried on {} clean images, none lifts a class of the victim by more than {} points ({}, “{}”)",
        tried, words::count(r.scan.front().images()), words::hundredths(before.before.value(), 1),
        before.trigger, words::class_name(r.class_names, before.before.cls));
    text += fmt::format("; after the defense the most is {} ({}).", detail::lifted(r, after.after),
                        after.trigger);
    if (!before.local) text += " A change of the whole image may do that without a backdoor.";
  }
  return text;
}

}  // namespace refine::report
