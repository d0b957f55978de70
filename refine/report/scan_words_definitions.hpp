#pragma once

// What scan_words.hpp declares.

#include <refine/report/scan_words.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/metrics/scan_entry.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

REFINE_DEFINITION bool works(const metrics::Lift& lift, bool local) {
  return lift.n > 0 && lift.interval().low > (local ? scan_finding : scan_finding_whole);
}

REFINE_DEFINITION std::vector<Guess> guesses(const DefenseReport& r) {
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

}  // namespace refine::report

namespace refine::report::detail {

/// The guess with the largest lift on one side. \pre not empty
REFINE_DEFINITION const Guess& foremost(const std::vector<Guess>& all, metrics::Lift Guess::*side) {
  return *std::ranges::max_element(all, {}, [&](const Guess& g) {
    const metrics::Lift& lift = g.*side;
    return lift.n > 0 ? lift.value() : -1;
  });
}

REFINE_DEFINITION std::string lifted(const DefenseReport& r, const metrics::Lift& lift) {
  return fmt::format("“{}” by {} points", words::class_name(r.class_names, lift.cls),
                     words::hundredths(lift.value(), 1));
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_DEFINITION std::string scan_sentence(const DefenseReport& r) {
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
