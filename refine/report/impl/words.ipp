#pragma once

#include <refine/report/detail/words.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <refine/core/config.hpp>
#include <refine/metrics/lift.hpp>

namespace refine::report::words {

REFINE_INLINE std::string class_name(const std::vector<std::string>& names, int cls) {
  const auto i = static_cast<std::size_t>(cls);
  return i < names.size() && !names[i].empty() ? names[i] : fmt::format("class {}", cls);
}

REFINE_INLINE std::string count(std::int64_t number) {
  std::string text = fmt::format("{}", number);
  for (auto end = static_cast<std::ptrdiff_t>(text.size()) - 3; end > (number < 0 ? 1 : 0); end -= 3) {
    text.insert(static_cast<std::size_t>(end), ",");
  }
  return text;
}

REFINE_INLINE std::string hundredths(double share, int decimals) {
  if (!std::isfinite(share)) return std::string(missing);
  const double unit = std::pow(10.0, decimals);
  const double rounded = std::round(share * 100 * unit) / unit;
  return fmt::format("{}{:.{}f}", rounded < 0 ? "−" : "", std::abs(rounded), decimals);
}

REFINE_INLINE std::string percent(double share, int decimals) {
  return std::isfinite(share) ? hundredths(share, decimals) + " %" : std::string(missing);
}

REFINE_INLINE std::string signed_hundredths(double difference, int decimals) {
  const auto text = hundredths(difference, decimals);
  return std::isfinite(difference) && !text.starts_with("−") &&
                 text.find_first_not_of("0.") != std::string::npos
             ? "+" + text
             : text;
}

}  // namespace refine::report::words

namespace refine::report {

REFINE_INLINE bool works(const metrics::Lift& lift, bool local) {
  return lift.n > 0 && lift.interval().low > (local ? scan_finding : scan_finding_whole);
}

REFINE_INLINE std::vector<Guess> guesses(const DefenseReport& r) {
  std::vector<Guess> all;
  for (const metrics::ScanEntry& entry : r.scan) {
    all.push_back({entry.trigger, metrics::max_lift_by_share(entry.before),
                   metrics::max_lift_by_share(entry.after), entry.local});
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
REFINE_INLINE const Guess& foremost(const std::vector<Guess>& all, metrics::Lift Guess::*side) {
  return *std::ranges::max_element(all, {}, [&](const Guess& g) {
    const metrics::Lift& lift = g.*side;
    return lift.n > 0 ? lift.value() : -1;
  });
}

REFINE_INLINE std::string lifted(const DefenseReport& r, const metrics::Lift& lift) {
  return fmt::format("“{}” by {} points", words::class_name(r.class_names, lift.cls),
                     words::hundredths(lift.value(), 1));
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_INLINE std::string scan_sentence(const DefenseReport& r) {
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
