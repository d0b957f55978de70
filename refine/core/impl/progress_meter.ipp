#pragma once

#include <refine/core/progress_meter.hpp>

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <utility>

#include <refine/core/config.hpp>

namespace refine {

REFINE_INLINE ProgressMeter::ProgressMeter(std::string label, std::int64_t total, std::string unit,
                                           std::FILE* out)
    : label_(std::move(label)), unit_(std::move(unit)), total_(total), out_(out), live_(is_terminal(out)) {
  const char* no_color = std::getenv("NO_COLOR");
  color_ = live_ && !(no_color && *no_color);
}

REFINE_INLINE void ProgressMeter::update(std::int64_t done, std::string_view note) {
  const auto now = Clock::now();
  if (!started_) {
    started_ = true;
    start_ = now;
    first_ = done;
    drawn_ = live_ ? now - redraw_every : now;  // short work writes no intermediate line to a log
  }
  done_ = done;
  if (now - drawn_ >= (live_ ? Clock::duration(redraw_every) : Clock::duration(log_every))) show(now, note);
}

REFINE_INLINE void ProgressMeter::print(std::string_view text) {
  if (!out_) return;
  fmt::print(out_, "{}{}\n", std::exchange(open_line_, false) ? "\r\x1b[K" : "", text);
  std::fflush(out_);
}

REFINE_INLINE void ProgressMeter::finish(std::string_view note) {
  if (finished_) return;
  if (!started_) update(done_, note);
  finished_ = true;
  show(Clock::now(), note);
  end_line();
}

REFINE_INLINE bool ProgressMeter::is_terminal(std::FILE* out) {
  const char* term = std::getenv("TERM");
  return out && ::isatty(::fileno(out)) && !(term && std::string_view(term) == "dumb");
}

REFINE_INLINE int ProgressMeter::columns() const {
  winsize size{};
  if (::ioctl(::fileno(out_), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

REFINE_INLINE std::string ProgressMeter::clock(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::clamp(seconds, 0.0, 3.6e6) + 0.5);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

REFINE_INLINE std::string ProgressMeter::rate(double per_second) const {
  if (unit_ == "B") return fmt::format("{:.1f} MB/s", per_second / 1e6);
  if (per_second < 10) return fmt::format("{:.2f} {}/s", per_second, unit_);
  return fmt::format("{:.0f} {}/s", per_second, unit_);
}

REFINE_INLINE std::string ProgressMeter::amount() const {
  if (unit_ == "B") {
    const double done = static_cast<double>(done_) / 1e6;
    const double total = static_cast<double>(total_) / 1e6;
    return total_ > 0 ? fmt::format("{:.1f}/{:.1f} MB", done, total) : fmt::format("{:.1f} MB", done);
  }
  return total_ > 0 ? fmt::format("{}/{} {}", done_, total_, unit_) : fmt::format("{} {}", done_, unit_);
}

REFINE_INLINE std::string ProgressMeter::amounts(double elapsed) const {
  std::string text = amount();
  const double moved = static_cast<double>(done_ - first_);
  const bool moving = moved > 0 && elapsed > 0;
  if (moving) text += "  " + rate(moved / elapsed);
  text += "  " + clock(elapsed);
  if (moving && total_ > done_ && !finished_) {
    text += fmt::format(" (~{} left)", clock(static_cast<double>(total_ - done_) * elapsed / moved));
  }
  return text;
}

REFINE_INLINE void ProgressMeter::show(Clock::time_point now, std::string_view note) {
  if (!out_) return;
  drawn_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  std::string before = label_;
  const std::string amounts = this->amounts(elapsed);
  std::string after = amounts;
  if (!note.empty()) after.append("  ").append(note);
  // Multiplied first: 29.0 / 100 * 100 is a little less than 29.
  const double percent =
      total_ > 0 ? std::clamp(100.0 * static_cast<double>(done_) / static_cast<double>(total_), 0.0, 100.0)
                 : 0;
  if (total_ > 0) before += fmt::format(" {:3}%", static_cast<int>(percent));
  for (std::string* text : {&before, &after}) {  // a note may contain control characters
    std::replace_if(
        text->begin(), text->end(), [](unsigned char c) { return c < 32 || c == 127; }, ' ');
  }
  if (live_) {
    draw(before, after, width(amounts), percent / 100);
  } else {
    fmt::print(out_, "{}  {}\n", before, after);
  }
  std::fflush(out_);
}

REFINE_INLINE void ProgressMeter::draw(const std::string& before, const std::string& after, int kept,
                                       double share) {
  const int room = columns() - 1;  // the last column makes some terminals wrap
  const int bar = std::min(24, room - width(before) - kept - 5);
  const bool with_bar = total_ > 0 && bar >= 6;
  std::string line = before + (with_bar ? " " : "  ");
  const auto bar_at = line.size();
  std::string drawing;
  if (with_bar) {
    const int full = static_cast<int>(share * bar + 0.5);
    const std::string left(static_cast<std::size_t>(full), '#');
    const std::string right(static_cast<std::size_t>(bar - full), '-');
    drawing = color_ ? fmt::format("[\x1b[32m{}\x1b[2;39m{}\x1b[0m] ", left, right)
                     : fmt::format("[{}{}] ", left, right);
  }
  line += after;
  line = cut(line, with_bar ? room - bar - 3 : room);
  line.insert(std::min(bar_at, line.size()), drawing);
  fmt::print(out_, "\r\x1b[K{}", line);
  open_line_ = true;
}

REFINE_INLINE void ProgressMeter::end_line() {
  if (!std::exchange(open_line_, false)) return;
  std::fputc('\n', out_);
  std::fflush(out_);
}

REFINE_INLINE int ProgressMeter::width(std::string_view text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return !continues(c); }));
}

REFINE_INLINE std::string ProgressMeter::cut(const std::string& text, int room) {
  std::size_t end = 0;
  for (int count = 0; end < text.size(); ++end) {
    if (!continues(text[end]) && ++count > std::max(room, 0)) break;
  }
  return text.substr(0, end);
}

}  // namespace refine
