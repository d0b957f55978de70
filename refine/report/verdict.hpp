#pragma once

#include <string>
#include <string_view>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// What the figures amount to, in plain words, read off the largest lift alone: ASR watches one class. Where
/// no trigger was given, read off the scan, if that found one.
struct Verdict {
  enum class Kind { disarmed, armed, uncertain, harmless, unmeasured };

  /// A trigger that lifts no class by more than this, at the upper end of each class's 95 % interval, is
  /// disarmed.
  static constexpr double tolerance = 0.05;

  /// Up to this, at the upper end, another class than the attacked one may owe its lift to what the trigger
  /// does to any image.
  static constexpr double corruption = 0.10;

  /// A loss of clean accuracy beyond this is said in the headline.
  static constexpr double high_price = 0.10;

  Kind kind = Kind::unmeasured;
  bool costly = false;
  std::string headline;
  std::string paragraph;  ///< plain text

  /// A stable word for files.
  std::string_view word() const;
};

Verdict verdict(const DefenseReport& r);

}  // namespace refine::report

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/verdict.ipp>
#endif
