#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// Which of the figures there are not, and for want of what; empty when there are all.
inline std::string not_measured(const DefenseReport& r) {
  if (!has_labels(r)) return "Not measured, without labels: BA, ASR, RA, the lift of a given trigger, DER.";
  if (!has_trigger(r)) return "Not measured, without a trigger: ASR, RA, its largest lift, DER.";
  return "";
}

}  // namespace refine::report

/// How figures are said, the same on the terminal and on the page.
namespace refine::report::words {

inline constexpr std::string_view missing = "–";

/// "cat", or "class 3" where there are no names.
std::string class_name(const std::vector<std::string>& names, int cls);

/// 12345 as "12,345".
std::string count(std::int64_t number);

/// A share times a hundred: 0.9139 as "91.39". Never "-0.00"; a dash for what is not a number.
std::string hundredths(double share, int decimals = 2);

/// "91.4 %"
std::string percent(double share, int decimals = 1);

/// A difference, with its sign: "+0.40", "−91.00".
std::string signed_hundredths(double difference, int decimals = 2);

}  // namespace refine::report::words

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

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/words.ipp>
#endif
