#pragma once

#include <refine/report/terminal.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ranges>

#include <refine/core/config.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/report/detail/words.hpp>
#include <refine/report/verdict.hpp>

namespace refine::report::detail {

REFINE_INLINE std::string field(std::string_view text, int width, bool right) {
  std::string fit(text);
  std::ranges::replace_if(
      fit, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  const auto length = [](std::string_view s) { return std::count_if(s.begin(), s.end(), starts_character); };
  if (length(fit) > width) {
    while (length(fit) > width - 1) {
      while (!starts_character(fit.back())) fit.pop_back();
      fit.pop_back();
    }
    fit += "…";
  }
  const std::string space(static_cast<std::size_t>(width - length(fit)), ' ');
  return right ? space + fit : fit + space;
}

REFINE_INLINE std::string table_line(std::array<std::string_view, 7> cells) {
  constexpr int widths[] = {12, 8, 10, 17, 10, 17, 9};
  constexpr bool right[] = {false, true, true, false, true, false, true};
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += "  ";
    line += field(cells[i], widths[i], right[i]);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + '\n';
}

REFINE_INLINE std::string range(const metrics::Interval& i) {
  if (!std::isfinite(i.low)) return "";
  return words::hundredths(i.low) + " to " + words::hundredths(i.high);
}

REFINE_INLINE std::string tally(std::int64_t n) {
  return n == 0 ? std::string(words::missing) : words::count(n);
}

REFINE_INLINE std::string points(double share) {
  return std::isfinite(share) ? words::hundredths(share) + " pt" : std::string(words::missing);
}

REFINE_INLINE std::string share_line(std::string_view name, const metrics::Proportion& before,
                                     const metrics::Proportion& after) {
  return table_line({name, tally(after.n), words::percent(before.value(), 2), range(before.wilson()),
                     words::percent(after.value(), 2), range(after.wilson()),
                     words::signed_hundredths(after.value() - before.value())});
}

REFINE_INLINE std::string table_title(std::string_view title) {
  std::string line = field(title, 99);
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n\n";
}

REFINE_INLINE std::string lift_lines(const DefenseReport& r) {
  const auto& before = r.before.largest_lift;
  const auto& after = r.after.largest_lift;
  const auto name = [&](const metrics::Lift& l) { return words::class_name(r.class_names, l.cls); };
  return table_line({"largest lift", tally(after.n), points(before.value()), range(before.interval()),
                     points(after.value()), range(after.interval()),
                     words::signed_hundredths(after.value() - before.value())}) +
         table_line({"  at class", "", "", name(before), "", name(after), ""}) +
         table_line({"DER", "", "", "", words::percent(metrics::defense_effectiveness(r.before, r.after), 2),
                     "", ""});
}

/// A figure that there is of the defense alone.
REFINE_INLINE std::string single_line(std::string_view name, const metrics::Proportion& p) {
  return table_line({name, tally(p.n), "", "", words::percent(p.value(), 2), range(p.wilson()), ""});
}

REFINE_INLINE std::string alarm_lines(const metrics::AlarmFigures& alarm) {
  std::string text = single_line("false alarms", alarm.false_alarms);
  if (alarm.detections) text += single_line("detections", *alarm.detections);
  if (alarm.auroc) {
    text += table_line({"AUROC", tally(alarm.auroc->triggered), "", "",
                        words::percent(alarm.auroc->value(), 2), range(alarm.auroc->interval()), ""});
  }
  return text;
}

/// The guessed triggers that lift most; the page has all.
REFINE_INLINE std::string scan_table(const DefenseReport& r) {
  constexpr std::size_t most = 6;
  const auto line = [](std::string_view trigger, std::string_view before, std::string_view class_before,
                       std::string_view after, std::string_view class_after) {
    std::string text = field(trigger, 34) + "  " + field(before, 10, true) + "  " + field(class_before, 17) +
                       "  " + field(after, 10, true) + "  " + field(class_after, 17);
    text.erase(text.find_last_not_of(' ') + 1);
    return text + '\n';
  };
  const auto name = [&](const metrics::Lift& l) {
    return l.n == 0 ? std::string() : words::class_name(r.class_names, l.cls);
  };
  std::string text = line("triggers tried", "before", "at class", "after", "at class");
  const std::vector<Guess> all = guesses(r);
  for (const Guess& guess : all | std::views::take(most)) {
    text += line(guess.trigger, points(guess.before.value()), name(guess.before), points(guess.after.value()),
                 name(guess.after));
  }
  if (all.size() > most) text += fmt::format("and {} more\n", all.size() - most);
  return text;
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_INLINE std::string terminal_table(const DefenseReport& r) {
  std::string text;
  if (!r.title.empty()) text += detail::table_title(r.title);
  if (has_labels(r) || has_trigger(r) || r.agreement || r.alarm) {
    text += detail::table_line({"", "n", "before", "95 %", "after", "95 %", "change"});
  }
  if (has_labels(r)) text += detail::share_line("BA", r.before.ba, r.after.ba);
  if (has_trigger(r)) {
    text += detail::share_line("ASR", r.before.asr, r.after.asr);
    text += detail::share_line("RA", r.before.ra, r.after.ra);
    text += detail::lift_lines(r);
  }
  if (r.agreement) text += detail::single_line("agreement", *r.agreement);
  if (r.alarm) text += detail::alarm_lines(*r.alarm);
  if (!r.scan.empty()) text += (text.ends_with("\n\n") || text.empty() ? "" : "\n") + detail::scan_table(r);
  if (const std::string absent = not_measured(r); !absent.empty()) text += '\n' + absent + '\n';
  text += '\n' + verdict(r).headline + ".\n";
  return text;
}

REFINE_INLINE std::string comparison_markdown(const std::vector<DefenseReport>& reports) {
  constexpr std::size_t columns = 8;
  using Row = std::array<std::string, columns>;
  const auto text = [](std::string_view said) {
    std::string cell;
    for (const char c : said) {
      if (c == '|' || c == '\\') cell += '\\';
      cell += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
    return cell.empty() ? std::string(words::missing) : cell;
  };
  const auto change = [](double before, double after) {
    if (!std::isfinite(before) && !std::isfinite(after)) return std::string(words::missing);
    return fmt::format("{} → {}", words::hundredths(before, 1), words::hundredths(after, 1));
  };
  std::vector<Row> rows = {{"attack", "model", "BA, %", "ASR, %", "RA, %", "largest lift", "DER, %", "n"}};
  for (const DefenseReport& r : reports) {
    rows.push_back({text(r.attack), text(r.model), change(r.before.ba.value(), r.after.ba.value()),
                    change(r.before.asr.value(), r.after.asr.value()),
                    change(r.before.ra.value(), r.after.ra.value()),
                    change(r.before.largest_lift.value(), r.after.largest_lift.value()),
                    words::hundredths(metrics::defense_effectiveness(r.before, r.after), 1),
                    has_labels(r) ? words::count(r.after.ba.n) : std::string(words::missing)});
  }
  std::array<int, columns> widths{};
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < columns; ++c) {
      const auto length = std::ranges::count_if(row[c], detail::starts_character);
      widths[c] = std::max({widths[c], static_cast<int>(length), 3});
    }
  }
  std::string table;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t c = 0; c < columns; ++c) {
      table += (c == 0 ? "| " : " | ") + detail::field(rows[i][c], widths[c], /*right=*/c >= 2);
    }
    table += " |\n";
    if (i > 0) continue;
    for (std::size_t c = 0; c < columns; ++c) {
      const std::string line(static_cast<std::size_t>(widths[c]) - (c >= 2 ? 1 : 0), '-');
      table += (c == 0 ? "| " : " | ") + line + (c >= 2 ? ":" : "");
    }
    table += " |\n";
  }
  return table;
}

}  // namespace refine::report
