#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace refine {

/// Tells how far a long piece of work is. On a terminal: one line, redrawn at most ten times a second and
/// never wider than the window. Elsewhere (a log, `TERM=dumb`): whole lines, the last one and before it at
/// most one in ten seconds, without control characters. Colour only on a terminal and without `NO_COLOR`.
///
/// The rate counts from the value of the first `update`, so a resumed run does not boast. Not thread-safe.
class ProgressMeter {
 public:
  /// \param total  the `done` of the end; 0: unknown
  /// \param unit   what is counted, "images"; "B" is shown in MB
  ProgressMeter(std::string label, std::int64_t total, std::string unit, std::FILE* out = stderr);

  ProgressMeter(const ProgressMeter&) = delete;
  ProgressMeter& operator=(const ProgressMeter&) = delete;

  ~ProgressMeter() { end_line(); }

  /// \param done  so much of the total, not an increment. One look at the clock, unless it is time to draw.
  void update(std::int64_t done, std::string_view note = {});

  /// The last line, always shown; the cursor stands on a fresh one afterwards.
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

  std::string figures(double elapsed) const;

  void show(Clock::time_point now, std::string_view note);

  /// \param kept  so much of `after` comes before the bar; the note behind it takes what room is left
  void draw(const std::string& before, const std::string& after, int kept, double share);

  void end_line();

  static bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

  // Code points, which is as good as columns for the scripts our labels are written in.
  static int width(std::string_view text);

  static std::string cut(const std::string& text, int room);

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
