#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <refine/report/defense_report.hpp>

namespace refine::report {

/// A conclusion from a report, in plain words.
///
/// It depends on the largest lift, because ASR watches only one class, and on the lifts of pairs of
/// classes, because the lift of a class misses an attack on each class. Without a given trigger it
/// depends on the scan, if the scan found a trigger.
struct Verdict {
  /// The conclusion.
  enum class Kind {
    disarmed,  ///< the trigger lifts no class by more than `tolerance`, no pair by more than `pair_tolerance`
    armed,     ///< the trigger still lifts a class, or moves one class to another
    uncertain,  ///< the interval of the lift includes both conclusions
    harmless,   ///< nor did it before the defense
    unmeasured,  ///< no trigger was given, and the scan found none; or no image shows whether the trigger works
  };

  /// A trigger is disarmed if the upper end of each class's 95 % interval is at most this lift,
  /// no pair of classes is above `pair_tolerance`, and the upper end of `metrics::target_lift` is not either.
  static constexpr double tolerance = 0.05;

  /// A lift of a class other than the attacked one may be the trigger's effect on any image, if the
  /// upper end of its interval is at most this.
  static constexpr double corruption = 0.10;

  /// A pair of classes is disarmed if its lift is at most this. The attack still moves a pair that it moved before the
  /// defense if the lower end of its lift's interval is above this. docs/lab/pair_lifts.md has the lifts of benign models.
  static constexpr double pair_tolerance = 0.10;

  /// The attack moves a pair if the lower end of its lift's interval is above this. Between
  /// `pair_tolerance` and this, a trigger that changes the whole image may move similar classes into
  /// each other, as it does on benign models.
  static constexpr double pair_corruption = 0.20;

  /// Where an attack has a target, lifts of pairs over fewer images than this do not make a verdict too close to call: one
  /// image of nine is 11 points. They count where the lower end of their interval is above a limit.
  static constexpr std::int64_t min_pair_images = 10;

  /// What to do with the defended model.
  enum class Decision {
    serve,    ///< serve it
    improve,  ///< train longer or get more images, and decide again
    retrain,  ///< retrain the victim from data that is trusted; this defense does not help
  };

  /// Without labels, and for the gated answer, a defended model that agrees with the victim on fewer clean images than this needs
  /// more training or more images: accuracy can fall by as much as agreement is missing.
  static constexpr double min_agreement = 0.85;

  /// Fewer clean images than this decide nothing. If nine of nine get the victim's class, the agreement may be 70 %.
  static constexpr std::int64_t min_images = 9;

  /// The headline mentions a loss of clean accuracy above this.
  static constexpr double high_price = 0.10;

  Kind kind = Kind::unmeasured;  ///< the conclusion
  bool costly = false;           ///< the loss of clean accuracy is above `high_price`
  std::string headline;          ///< one sentence of plain text, without a full stop
  std::string paragraph;         ///< the reasons, plain text
  /// What the scan found in the victim, one sentence: the strongest trigger that works, or that lifts a
  /// class by more than `scan_notable`. Empty if there is none.
  std::string finding;
  Decision decision = Decision::serve;  ///< what to do
  std::string reason;                   ///< of the decision, one sentence

  /// Returns the name of `kind`, the stable word that `metrics.json` stores.
  std::string_view word() const;

  /// Returns the name of `decision`: "serve", "improve" or "retrain".
  std::string_view decision_word() const;

  /// Returns the decision and its reason in one sentence for a person.
  std::string advice() const;
};

/// A guessed small trigger works if the lower end of its lift's 95 % interval is above this: more
/// than half of the images move to one class.
inline constexpr double scan_finding = 0.5;

/// The same for a change of the whole image. Strong noise alone moves most images of some data sets
/// to one class, without any backdoor.
inline constexpr double scan_finding_whole = 0.9;

/// A lift of a guessed trigger on the victim is named in the verdict if the lower end of its interval is
/// above this, whether or not it counts as working.
inline constexpr double scan_notable = 0.2;

/// Judges a report.
Verdict verdict(const DefenseReport& report);

}  // namespace refine::report

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/verdict.ipp>
#endif
