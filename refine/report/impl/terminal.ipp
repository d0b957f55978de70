#pragma once

#include <refine/report/render.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ranges>

#include <refine/core/config.hpp>
#include <refine/core/text.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/report/detail/format.hpp>
#include <refine/report/detail/scan_summary.hpp>
#include <refine/report/verdict.hpp>

namespace refine::report::detail {

REFINE_INLINE std::string fit_field(std::string_view text, int width, bool right) {
  std::string cell = refine::text::printable(text);
  int length = 0;
  std::size_t cut = 0;  // where the last character that fits begins
  for (std::size_t i = 0; i < cell.size() && length <= width; ++i) {
    if (starts_character(cell[i]) && ++length == width) cut = i;
  }
  if (length > width) {
    cell.replace(cut, std::string::npos, "…");
    length = width;
  }
  const std::string padding(static_cast<std::size_t>(width - length), ' ');
  return right ? padding + cell : cell + padding;
}

/// Breaks a paragraph into lines of at most 100 characters, at blanks.
REFINE_INLINE std::string wrap(const std::string& paragraph) {
  constexpr std::ptrdiff_t max_columns = 100;
  const auto length = [](std::string_view s) { return std::count_if(s.begin(), s.end(), starts_character); };
  std::string text, line;
  for (const auto part : std::views::split(paragraph, ' ')) {
    const std::string word = refine::text::printable(std::string(part.begin(), part.end()));
    if (!line.empty() && length(line) + 1 + length(word) > max_columns) {
      text += line + '\n';
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return text + line + '\n';
}

/// Formats one line of the table: name, n, before, interval, after, interval, change.
REFINE_INLINE std::string table_line(std::array<std::string_view, 7> cells) {
  constexpr int widths[] = {17, 8, 10, 17, 10, 17, 9};
  constexpr bool right[] = {false, true, true, false, true, false, true};
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += "  ";
    line += fit_field(cells[i], widths[i], right[i]);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + '\n';
}

/// Formats an interval. Empty if it has no value.
REFINE_INLINE std::string interval_text(const metrics::Interval& i) {
  if (!std::isfinite(i.low)) return "";
  return format::hundredths(i.low) + " to " + format::hundredths(i.high);
}

/// Formats a number of images. A dash if there were none.
REFINE_INLINE std::string count_text(std::int64_t n) {
  return n == 0 ? std::string(format::missing) : format::count(n);
}

/// Formats a lift in percentage points.
REFINE_INLINE std::string points_text(double share) {
  return std::isfinite(share) ? format::hundredths(share) + " pt" : std::string(format::missing);
}

REFINE_INLINE std::string share_line(std::string_view name, const metrics::Proportion& before,
                                     const metrics::Proportion& after) {
  return table_line({name, count_text(after.n), format::percent(before.value(), 2),
                     interval_text(before.wilson()), format::percent(after.value(), 2),
                     interval_text(after.wilson()),
                     format::signed_hundredths(after.value() - before.value())});
}

REFINE_INLINE std::string table_title(std::string_view title) {
  std::string line = fit_field(title, 99);
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n\n";
}

/// Formats the lifts of a class or of a pair of classes.
inline std::string lift_line(std::string_view name, std::int64_t n, const auto& before, const auto& after) {
  return table_line({name, count_text(n), points_text(before.value()), interval_text(before.interval()),
                     points_text(after.value()), interval_text(after.interval()),
                     format::signed_hundredths(after.value() - before.value())});
}

REFINE_INLINE std::string lift_lines(const DefenseReport& report) {
  const auto& before = report.before.largest_lift;
  const auto& after = report.after.largest_lift;
  const auto name = [&](const metrics::Lift& l) { return format::class_name(report.class_names, l.cls); };
  return lift_line("largest lift", after.n, before, after) +
         table_line({"  at class", "", "", name(before), "", name(after), ""});
}

/// Formats the moved share and the largest lift of a pair. Empty in a report of an earlier version.
REFINE_INLINE std::string pair_lines(const DefenseReport& report) {
  if (!has_pairs(report)) return "";
  const metrics::PairLift& before = report.before.largest_pair_lift;
  const metrics::PairLift& after = report.after.largest_pair_lift;
  const auto name = [&](int cls) { return format::class_name(report.class_names, cls); };
  return share_line("moved share", report.before.moved, report.after.moved) +
         lift_line("largest pair lift", after.lift.n, before, after) +
         table_line({"  from class", "", "", name(before.truth), "", name(after.truth), ""}) +
         table_line({"  to class", "", "", name(before.lift.cls), "", name(after.lift.cls), ""});
}

REFINE_INLINE std::string der_line(const DefenseReport& report) {
  return table_line({"DER", "", "", "",
                     format::percent(metrics::defense_effectiveness(report.before, report.after), 2), "",
                     ""});
}

/// Formats a share that only the defended model has.
REFINE_INLINE std::string single_line(std::string_view name, const metrics::Proportion& p) {
  return table_line(
      {name, count_text(p.n), "", "", format::percent(p.value(), 2), interval_text(p.wilson()), ""});
}

REFINE_INLINE std::string alarm_lines(const metrics::AlarmMetrics& alarm) {
  std::string text = single_line("false alarms", alarm.false_alarms);
  if (alarm.calibration_groups > 0) {
    text += table_line({"  expected", count_text(alarm.calibration_groups), "", "",
                        format::percent(alarm.expected_rate(), 2), interval_text(alarm.promised_rate()), ""});
  }
  if (alarm.detections) text += single_line("detections", *alarm.detections);
  if (alarm.auroc) {
    text +=
        table_line({"AUROC", count_text(alarm.auroc->triggered), "", "",
                    format::percent(alarm.auroc->value(), 2), interval_text(alarm.auroc->interval()), ""});
  }
  if (alarm.detected_at_1) text += single_line("TPR at 1 % FPR", *alarm.detected_at_1);
  if (alarm.detected_at_5) text += single_line("TPR at 5 % FPR", *alarm.detected_at_5);
  return text;
}

/// Formats the metrics of the gated answer.
REFINE_INLINE std::string gated_lines(const DefenseReport& report) {
  const metrics::GatedMetrics& gated = *report.gated;
  std::string text = fmt::format(
      "\nGated{}: the victim's answer where the alarm is silent, the defended one where it is raised.\n",
      report.answer == Answer::gated ? " (served)" : "");
  if (has_labels(report)) text += share_line("BA, gated", report.before.ba, gated.metrics.ba);
  if (has_trigger(report)) {
    text += share_line("ASR, gated", report.before.asr, gated.metrics.asr);
    text += lift_line("lift, gated", gated.metrics.largest_lift.n, report.before.largest_lift,
                      gated.metrics.largest_lift);
    if (has_pairs(report)) {
      text += lift_line("pair lift, gated", gated.metrics.largest_pair_lift.lift.n,
                        report.before.largest_pair_lift, gated.metrics.largest_pair_lift);
    }
  }
  return text + single_line("agreement, gated", gated.agreement);
}

/// Formats the guessed triggers with the largest lifts. The page shows all.
REFINE_INLINE std::string scan_table(const DefenseReport& report) {
  constexpr std::size_t max_triggers = 6;
  const auto line = [](std::string_view trigger, std::string_view before, std::string_view class_before,
                       std::string_view after, std::string_view class_after) {
    std::string text = fit_field(trigger, 34) + "  " + fit_field(before, 10, true) + "  " +
                       fit_field(class_before, 17) + "  " + fit_field(after, 10, true) + "  " +
                       fit_field(class_after, 17);
    text.erase(text.find_last_not_of(' ') + 1);
    return text + '\n';
  };
  const auto name = [&](const metrics::Lift& l) {
    return l.n == 0 ? std::string() : format::class_name(report.class_names, l.cls);
  };
  std::string text = line("triggers tried", "before", "at class", "after", "at class");
  const std::vector<GuessedTrigger> triggers = guessed_triggers(report);
  for (const GuessedTrigger& trigger : triggers | std::views::take(max_triggers)) {
    text += line(trigger.name, points_text(trigger.before.value()), name(trigger.before),
                 points_text(trigger.after.value()), name(trigger.after));
  }
  if (triggers.size() > max_triggers) text += fmt::format("and {} more\n", triggers.size() - max_triggers);
  if (const std::string gated = gated_scan_sentence(report); !gated.empty()) text += wrap(gated);
  return text;
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_INLINE std::string terminal_table(const DefenseReport& report) {
  std::string text;
  if (!report.title.empty()) text += detail::table_title(report.title);
  if (has_labels(report) || has_trigger(report) || report.agreement || report.alarm) {
    text += detail::table_line({"", "n", "before", "95 %", "after", "95 %", "change"});
  }
  if (has_labels(report)) text += detail::share_line("BA", report.before.ba, report.after.ba);
  if (has_trigger(report)) {
    text += detail::share_line("ASR", report.before.asr, report.after.asr);
    if (has_labels(report)) text += detail::share_line("RA", report.before.ra, report.after.ra);
    text += detail::lift_lines(report) + detail::pair_lines(report);
    if (has_labels(report)) text += detail::der_line(report);
  }
  if (report.agreement) text += detail::single_line("agreement", *report.agreement);
  if (report.alarm) text += detail::alarm_lines(*report.alarm);
  if (report.gated) text += detail::gated_lines(report);
  if (!report.scan.empty())
    text += (text.ends_with("\n\n") || text.empty() ? "" : "\n") + detail::scan_table(report);
  if (const std::string note = detail::missing_metrics_note(report); !note.empty())
    text += '\n' + note + '\n';
  const Verdict v = verdict(report);
  text += '\n' + v.headline + ".\n";
  if (!v.finding.empty()) text += detail::wrap(v.finding + '.');
  return text + detail::wrap(v.advice() + '.');
}

REFINE_INLINE std::string comparison_markdown(const std::vector<DefenseReport>& reports) {
  constexpr std::size_t columns = 9;
  using Row = std::array<std::string, columns>;
  const auto text = [](std::string_view name) {
    std::string cell;
    for (const char c : refine::text::printable(name)) {
      if (std::string_view("|\\<&`*[").find(c) != std::string_view::npos)
        cell += '\\';  // no cell, HTML, link
      cell += c;
    }
    return cell.empty() ? std::string(format::missing) : cell;
  };
  const auto change = [](double before, double after) {
    if (!std::isfinite(before) && !std::isfinite(after)) return std::string(format::missing);
    return fmt::format("{} → {}", format::hundredths(before, 1), format::hundredths(after, 1));
  };
  std::vector<Row> rows = {
      {"attack", "model", "BA, %", "ASR, %", "RA, %", "largest lift", "pair lift", "DER, %", "n"}};
  for (const DefenseReport& report : reports) {
    rows.push_back({text(report.attack), text(report.model),
                    change(report.before.ba.value(), report.after.ba.value()),
                    change(report.before.asr.value(), report.after.asr.value()),
                    change(report.before.ra.value(), report.after.ra.value()),
                    change(report.before.largest_lift.value(), report.after.largest_lift.value()),
                    change(report.before.largest_pair_lift.value(), report.after.largest_pair_lift.value()),
                    format::hundredths(metrics::defense_effectiveness(report.before, report.after), 1),
                    has_labels(report) ? format::count(report.after.ba.n) : std::string(format::missing)});
  }
  constexpr int max_width = 100;  // every row is as wide as the longest name
  std::array<int, columns> widths{};
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < columns; ++c) {
      const auto length = std::ranges::count_if(row[c], detail::starts_character);
      widths[c] = std::clamp(static_cast<int>(std::min<std::ptrdiff_t>(length, max_width)),
                             std::max(widths[c], 3), max_width);
    }
  }
  std::string table;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t c = 0; c < columns; ++c) {
      table += (c == 0 ? "| " : " | ") + detail::fit_field(rows[i][c], widths[c], /*right=*/c >= 2);
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

namespace refine {

REFINE_INLINE std::ostream& operator<<(std::ostream& out, const Evaluation& evaluation) {
  return out << report::terminal_table(
             {.class_names = evaluation.classes, .before = evaluation.before, .after = evaluation.after});
}

}  // namespace refine
