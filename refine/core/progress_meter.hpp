#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace refine {

/// Shows the progress of a long operation.
///
/// On a terminal it is one line, redrawn at most ten times a second and never wider than the
/// window. Elsewhere (a log file, `TERM=dumb`) it writes whole lines without control characters, at
/// most one every ten seconds and one at the end. Colour is used only on a terminal, and not if
/// `NO_COLOR` is set.
///
/// The rate counts from the value of the first `update`, so that a resumed run does not overstate
/// it. The class is not thread-safe.
class ProgressMeter {
 public:
  /// \param label what is done, at the start of the line
  /// \param total the final value of `done`; 0 if unknown
  /// \param unit what is counted, such as "images"; "B" is shown in MB
  /// \param out where the lines go; null shows nothing
  ProgressMeter(std::string label, std::int64_t total, std::string unit, std::FILE* out = stderr);

  ProgressMeter(const ProgressMeter&) = delete;
  ProgressMeter& operator=(const ProgressMeter&) = delete;

  ~ProgressMeter() { end_line(); }

  /// Reports progress. Costs one look at the clock, unless the line is due to be redrawn.
  /// \param done the amount done so far, not an increment
  /// \param note more to show behind the figures
  void update(std::int64_t done, std::string_view note = {});

  /// Writes a line of text, above the progress line on a terminal.
  /// \param text one line, without a line end
  void print(std::string_view text);

  /// Shows the last line and ends it.
  /// \param note more to show behind the figures
  void finish(std::string_view note = {});

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds redraw_every{100};
  static constexpr std::chrono::seconds log_every{10};

  static bool is_terminal(std::FILE* out);

  int columns() const;

  static std::string clock(double seconds);

  std::string rate(double per_second) const;

  std::string amount() const;

  std::string amounts(double elapsed) const;

  void show(Clock::time_point now, std::string_view note);

  /// \param kept the columns of `after` that take precedence over the bar; the note is cut to what
  ///   remains
  void draw(const std::string& before, const std::string& after, int kept, double share);

  void end_line();

  static bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

  // Counts code points, which equal columns in the scripts that labels are written in.
  static int width(std::string_view text);

  static std::string cut(const std::string& text, int columns);

  std::string label_;
  std::string unit_;
  std::int64_t total_;
  std::FILE* out_;
  bool live_;
  bool color_ = false;
  bool started_ = false;
  bool finished_ = false;
  bool open_line_ = false;
  std::int64_t done_ = 0;
  std::int64_t first_ = 0;
  Clock::time_point start_{};
  Clock::time_point drawn_{};
};

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/core/impl/progress_meter.ipp>
#endif
