#pragma once

#include <refine/report/detail/html_parts.hpp>
#include <refine/report/render.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string_view>

#include <refine/core/config.hpp>
#include <refine/core/text.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/report/detail/format.hpp>
#include <refine/report/detail/scan_summary.hpp>
#include <refine/report/verdict.hpp>

namespace refine::report {

namespace detail {

REFINE_INLINE std::string base64(std::string_view bytes) {
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t left = bytes.size() - i;
    const auto byte = [&](std::size_t k) { return k < left ? static_cast<unsigned char>(bytes[i + k]) : 0u; };
    const unsigned word = byte(0) << 16 | byte(1) << 8 | byte(2);
    text += alphabet[word >> 18 & 63];
    text += alphabet[word >> 12 & 63];
    text += left > 1 ? alphabet[word >> 6 & 63] : '=';
    text += left > 2 ? alphabet[word & 63] : '=';
  }
  return text;
}

/// Replaces the space before each percent sign by a no-break space, which keeps a number and its
/// unit on one line.
REFINE_INLINE std::string keep_percent_signs(std::string text) {
  for (auto i = text.find(" %"); i != std::string::npos; i = text.find(" %", i)) text.replace(i, 1, "\u00a0");
  return text;
}

/// Renders a section of the page. Empty if `body` is.
REFINE_INLINE std::string section(std::string_view title, std::string_view note, std::string_view body) {
  if (body.empty()) return "";
  return fmt::format("<section><h2>{}</h2><p class=\"note\">{}</p>{}</section>\n", title, note, body);
}

REFINE_INLINE std::string html_interval(const metrics::Interval& i) {
  if (!(i.low <= i.high)) return "";
  return fmt::format("<small>{} to {}</small>", format::hundredths(i.low), format::hundredths(i.high));
}

REFINE_INLINE std::string html_row(std::string_view name, std::string_view meaning, std::string_view before,
                                   std::string_view after, std::string_view change) {
  return fmt::format(
      "<tr><th scope=\"row\">{}<small>{}</small></th><td data-k=\"before\">{}</td>"
      "<td data-k=\"after\">{}</td>"
      "<td data-k=\"change\">{}</td></tr>",
      name, meaning, before, after, change);
}

REFINE_INLINE std::string html_share(std::string_view name, std::string_view meaning,
                                     const metrics::Proportion& before, const metrics::Proportion& after) {
  const auto cell = [](const metrics::Proportion& p) {
    return format::percent(p.value(), 2) + html_interval(p.wilson());
  };
  const std::string of = after.n == 0 ? "not measured: no target class"
                                      : fmt::format("{}; {} images", meaning, format::count(after.n));
  return html_row(name, of, cell(before), cell(after),
                  format::signed_hundredths(after.value() - before.value()));
}

REFINE_INLINE std::string html_figures(const DefenseReport& report) {
  if (!has_labels(report) && !has_trigger(report) && !report.agreement && report.after.classes == 0)
    return "";
  const auto cell = [](const auto& l, const std::string& classes, std::string_view at) {
    const std::string where = html_escape(classes);
    return fmt::format("{} pt{}<small title=\"{}\">{}{}</small>", format::hundredths(l.value()),
                       html_interval(l.interval()), where, at, where);
  };
  const auto name = [&](int cls) { return format::class_name(report.class_names, cls); };
  const auto lift = [&](const metrics::Lift& l) { return cell(l, name(l.cls), "at "); };
  const auto pair = [&](const metrics::PairLift& l) {
    return cell(l, name(l.truth) + " → " + name(l.lift.cls), "");
  };
  const auto& before = report.before.largest_lift;
  const auto& after = report.after.largest_lift;
  const metrics::Target& target = report.after.target;
  const std::string others = target.single() ? "share of triggered images of other classes"
                             : target        ? "share of triggered images of classes that the attack moves"
                                             : "share of triggered images";
  std::string rows;
  if (has_trigger(report)) {
    rows += html_row("Largest lift",
                     fmt::format("most that the trigger adds to any class; largest of {} classes, {} images",
                                 format::count(after.candidates), format::count(after.n)),
                     lift(before), lift(after), format::signed_hundredths(after.value() - before.value()));
    if (has_pairs(report)) {
      const metrics::PairLift& pair_before = report.before.largest_pair_lift;
      const metrics::PairLift& pair_after = report.after.largest_pair_lift;
      rows +=
          html_row("Largest pair lift",
                   fmt::format("most that the trigger adds to any class over the images of one other class; "
                               "largest of {} pairs, {} images",
                               format::count(pair_after.pairs), format::count(pair_after.lift.n)),
                   pair(pair_before), pair(pair_after),
                   format::signed_hundredths(pair_after.value() - pair_before.value()));
      rows += html_share("Moved share", "share of images whose prediction the trigger changes",
                         report.before.moved, report.after.moved);
    }
    rows += html_share(
        "ASR",
        others + (target.single() ? " predicted as the target" : " predicted as the target of their class"),
        report.before.asr, report.after.asr);
  }
  if (has_labels(report))
    rows += html_share("BA", "accuracy on clean images", report.before.ba, report.after.ba);
  if (has_trigger(report) && has_labels(report)) {
    rows += html_share("RA", others + " predicted as their true class", report.before.ra, report.after.ra);
    rows +=
        html_row("DER", "defense effectiveness rating; 50 % means no defense", std::string(format::missing),
                 format::percent(metrics::defense_effectiveness(report.before, report.after), 2), "");
  }
  if (report.agreement) {
    rows += html_row(
        "Agreement",
        fmt::format(
            "share of clean images that victim and defense assign to the same class, without labels; {} images",
            format::count(report.agreement->n)),
        std::string(format::missing),
        format::percent(report.agreement->value(), 2) + html_interval(report.agreement->wilson()), "");
  }
  std::string html;
  if (!rows.empty()) {
    html =
        "<table class=\"figures\"><thead><tr><th></th><th>before</th><th>after</th><th>change</th></tr>"
        "</thead><tbody>" +
        rows + "</tbody></table>";
  }
  const std::string absent = missing_metrics_note(report);
  return absent.empty() ? html : html + "<p class=\"absent\">" + absent + "</p>";
}

REFINE_INLINE std::string html_lifts(const DefenseReport& report) {
  const auto& before = report.before.lifts;
  const auto& after = report.after.lifts;
  if (!has_trigger(report) || before.empty() || before.size() != after.size()) return "";
  std::vector<std::size_t> order(before.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::string note;
  if (order.size() > max_lift_bars) {
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::max(before[a].value(), after[a].value()) > std::max(before[b].value(), after[b].value());
    });
    note = fmt::format(
        "<p class=\"note\">The {} classes with the largest lifts, of {}; metrics.json has all.</p>",
        max_lift_bars, order.size());
    order.resize(max_lift_bars);
  }
  double low = 0, high = 0.05;  // at least this, so that noise does not fill the bars
  for (std::size_t c : order) {
    low = std::min({low, before[c].value(), after[c].value()});
    high = std::max({high, before[c].value(), after[c].value()});
  }
  const auto x = [&](double value) { return (value - low) / (high - low) * 1000; };
  const auto bar = [&](const metrics::Lift& lift, int top, const char* kind) {
    const double from = x(std::min(0.0, lift.value())), to = x(std::max(0.0, lift.value()));
    return fmt::format("<rect class=\"{}\" x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"7\"/>", kind, from,
                       top, to - from);
  };
  std::string html = note +
                     "<div class=\"key\"><span class=\"b\">before</span><span class=\"a\">after</span></div>"
                     "<table class=\"lifts\"><tbody>";
  for (std::size_t c : order) {
    const bool target = report.after.target.single() == static_cast<int>(c);
    const auto name = html_escape(format::class_name(report.class_names, static_cast<int>(c)));
    html += fmt::format(
        "<tr{}><th scope=\"row\" title=\"{}\">{}{}</th><td>"
        "<svg viewBox=\"0 0 1000 20\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{}{}"
        "<rect class=\"zero\" x=\"{:.1f}\" y=\"0\" width=\"2\" height=\"20\"/></svg></td>"
        "<td class=\"num\"><span class=\"b\">{}</span><span class=\"a\">{}</span></td></tr>",
        target ? " class=\"target\"" : "", name, name, target ? "<small>target</small>" : "",
        bar(before[c], 2, "b"), bar(after[c], 11, "a"), std::max(0.0, x(0) - 1),
        format::signed_hundredths(before[c].value(), 1), format::signed_hundredths(after[c].value(), 1));
  }
  return html + "</tbody></table>";
}

REFINE_INLINE std::string html_scan(const DefenseReport& report) {
  if (report.scan.empty()) return "";
  const auto cell = [&](const metrics::Lift& lift, bool works, const char* side) {
    if (lift.n == 0) return fmt::format("<td data-k=\"{}\">{}</td><td></td>", side, format::missing);
    const auto name = html_escape(format::class_name(report.class_names, lift.cls));
    return fmt::format("<td data-k=\"{0}\"{1}>{2} pt{3}</td><td data-k=\"at class\" title=\"{4}\">{4}</td>",
                       side, works ? " class=\"found\"" : "", format::hundredths(lift.value(), 1),
                       html_interval(lift.interval()), name);
  };
  std::string html =
      "<table class=\"figures scan\"><thead><tr><th>trigger</th><th>lift before</th><th>at class</th>"
      "<th>lift after</th><th>at class</th></tr></thead><tbody>";
  for (const GuessedTrigger& trigger : guessed_triggers(report)) {
    html += fmt::format("<tr><th scope=\"row\">{}</th>{}{}</tr>", html_escape(trigger.name),
                        cell(trigger.before, trigger.works_before(), "lift before"),
                        cell(trigger.after, trigger.works_after(), "lift after"));
  }
  return html + "</tbody></table>";
}

/// Describes what to expect of the calibration: " in 40 groups; expect 4.9 % (0.6 to 13.2 %)". Empty if
/// that is not known.
REFINE_INLINE std::string promised_rate_text(const metrics::AlarmMetrics& alarm) {
  if (alarm.calibration_groups == 0) return "";
  const metrics::Interval promised = alarm.promised_rate();
  const std::string groups =
      alarm.calibration_groups == alarm.calibration_images
          ? ""
          : fmt::format(" in {} groups of near-duplicates", format::count(alarm.calibration_groups));
  return fmt::format("{}; expect {} ({} to {})", groups, format::percent(alarm.expected_rate()),
                     format::percent(promised.low), format::percent(promised.high));
}

REFINE_INLINE std::string html_alarm(const DefenseReport& report) {
  if (!report.alarm) return "";
  const metrics::AlarmMetrics& alarm = *report.alarm;
  const auto row = [](std::string_view name, std::string_view meaning, std::string_view value,
                      const metrics::Interval& interval) {
    return fmt::format("<tr><th scope=\"row\">{}<small>{}</small></th><td data-k=\"share\">{}{}</td></tr>",
                       name, meaning, value, html_interval(interval));
  };
  const auto share = [&](std::string_view name, std::string_view of, const metrics::Proportion& p) {
    return row(name, fmt::format("{}; {} images", of, format::count(p.n)), format::percent(p.value(), 2),
               p.wilson());
  };
  std::string html = "<table class=\"figures\"><tbody>";
  html += share(
      "False alarms",
      fmt::format("share of clean images; the threshold, {:.4g}, was set for {} on{} other clean images{}",
                  alarm.threshold, format::percent(alarm.wanted_rate),
                  alarm.calibration_images > 0 ? " " + format::count(alarm.calibration_images) : "",
                  promised_rate_text(alarm)),
      alarm.false_alarms);
  if (alarm.detections) html += share("Detections", "share of triggered images", *alarm.detections);
  if (alarm.auroc) {
    html +=
        row("AUROC",
            fmt::format("share of pairs in which the triggered image scores higher, for any threshold; {} "
                        "triggered and {} clean images",
                        format::count(alarm.auroc->triggered), format::count(alarm.auroc->clean)),
            format::percent(alarm.auroc->value(), 2), alarm.auroc->interval());
  }
  const auto detected = [&](std::string_view rate, const std::optional<metrics::Proportion>& share_detected) {
    if (!share_detected) return;
    html += share(
        fmt::format("TPR at {} % FPR", rate),
        fmt::format("share of triggered images that are detected if at most {} % of these clean images are",
                    rate),
        *share_detected);
  };
  detected("1", alarm.detected_at_1);
  detected("5", alarm.detected_at_5);
  html += "</tbody></table>";
  if (!alarm.detections)
    html += "<p class=\"absent\">Not measured without a trigger: detections, AUROC, TPR.</p>";
  return html;
}

/// Renders the curve of the gated answer: a table, and charts of what was measured.
REFINE_INLINE std::string html_gated_curve(const DefenseReport& report) {
  const std::vector<metrics::GatedPoint>& points = report.gated->curve;
  if (points.empty()) return "";
  const bool labels = has_labels(report), trigger = has_trigger(report), asr = report.after.asr.n > 0,
             pairs = has_pairs(report);
  std::string html = fmt::format(
      "<table class=\"figures\"><thead><tr><th>alarms on clean images</th><th>threshold</th>"
      "<th>agreement</th>{}{}{}{}</tr></thead><tbody>",
      labels ? "<th>BA</th>" : "", asr ? "<th>ASR</th>" : "", trigger ? "<th>largest lift</th>" : "",
      pairs ? "<th>largest pair lift</th>" : "");
  const auto cell = [](const char* name, const std::string& value) {
    return fmt::format("<td data-k=\"{}\">{}</td>", name, value);
  };
  const auto curve = [](const char* name, const char* unit) {
    return Curve{
        .name = name, .unit = unit, .x_label = "clean images that raise the alarm, %", .x = {}, .y = {}};
  };
  Curve ba = curve("Gated: BA", "%"), agreement = curve("Gated: agreement", "%"),
        lift = curve("Gated: largest lift", "points"), pair = curve("Gated: largest pair lift", "points");
  for (const metrics::GatedPoint& p : points) {
    html += fmt::format("<tr><th scope=\"row\">{}</th>", format::percent(p.alarms.value()));
    html += cell("threshold",
                 p.threshold < 0 ? std::string("none: always defended") : fmt::format("{:.4f}", p.threshold));
    html += cell("agreement", format::percent(p.agreement.value(), 2));
    if (labels) html += cell("BA", format::percent(p.ba.value(), 2));
    if (asr) html += cell("ASR", format::percent(p.asr.value(), 2));
    if (trigger) html += cell("largest lift", format::hundredths(p.largest_lift.value()) + " pt");
    if (pairs) html += cell("largest pair lift", format::hundredths(p.largest_pair_lift.value()) + " pt");
    html += "</tr>";
    for (Curve* each : {&ba, &agreement, &lift, &pair}) each->x.push_back(100 * p.alarms.value());
    ba.y.push_back(100 * p.ba.value());
    agreement.y.push_back(100 * p.agreement.value());
    lift.y.push_back(100 * p.largest_lift.value());
    pair.y.push_back(100 * p.largest_pair_lift.value());
  }
  html += "</tbody></table><div class=\"grid\">";
  for (const Curve* each : {labels ? &ba : &agreement, &lift, &pair}) {
    const std::string svg = svg_curve(*each);  // empty if no value was measured
    if (svg.empty()) continue;
    html += fmt::format("<figure><figcaption>{}, {}</figcaption>{}</figure>", each->name, each->unit, svg);
  }
  return html + "</div>";
}

REFINE_INLINE std::string html_gated(const DefenseReport& report) {
  if (!report.gated) return "";
  const metrics::GatedMetrics& gated = *report.gated;
  std::string html =
      "<table class=\"figures\"><thead><tr><th></th><th>victim</th><th>defended</th><th>gated</th></tr></thead>"
      "<tbody>";
  const auto row = [&](std::string_view name, std::string_view meaning, const std::string& victim,
                       const std::string& defended, const std::string& both) {
    html += fmt::format(
        "<tr><th scope=\"row\">{}<small>{}</small></th><td data-k=\"victim\">{}</td><td "
        "data-k=\"defended\">{}</td><td data-k=\"gated\">{}</td></tr>",
        name, meaning, victim, defended, both);
  };
  const auto share = [](const metrics::Proportion& p) {
    return format::percent(p.value(), 2) + html_interval(p.wilson());
  };
  const auto lift = [&](const auto& l, int cls) {
    return fmt::format("{} pt{}<small>at {}</small>", format::hundredths(l.value()),
                       html_interval(l.interval()), html_escape(format::class_name(report.class_names, cls)));
  };
  const auto largest = [&](const metrics::AttackMetrics& m) {
    return lift(m.largest_lift, m.largest_lift.cls);
  };
  const auto pair = [&](const metrics::AttackMetrics& m) {
    return lift(m.largest_pair_lift, m.largest_pair_lift.lift.cls);
  };
  const metrics::AttackMetrics &before = report.before, &after = report.after;
  if (has_labels(report))
    row("BA", "accuracy on clean images", share(before.ba), share(after.ba), share(gated.metrics.ba));
  if (has_trigger(report)) {
    if (after.asr.n > 0)
      row("ASR", "attack success rate", share(before.asr), share(after.asr), share(gated.metrics.asr));
    row("Largest lift", "most that the trigger adds to any class", largest(before), largest(after),
        largest(gated.metrics));
    if (has_pairs(report))
      row("Largest pair lift", "the same over the images of one other class", pair(before), pair(after),
          pair(gated.metrics));
  }
  row("Agreement",
      fmt::format("share of clean images that get the victim's class; {} images",
                  format::count(gated.agreement.n)),
      std::string(format::missing),
      report.agreement ? share(*report.agreement) : std::string(format::missing), share(gated.agreement));
  html += "</tbody></table>";
  if (const std::string scan = gated_scan_sentence(report); !scan.empty())
    html += "<p class=\"absent\">" + html_escape(scan) + "</p>";
  return html + html_gated_curve(report);
}

REFINE_INLINE std::string html_confusion(std::string_view caption, const metrics::ConfusionMatrix& counts,
                                         const std::vector<std::string>& class_names,
                                         const metrics::Target& target) {
  const int classes = static_cast<int>(counts.rows());
  const bool dense = classes > 12;  // the cells are too small for numbers
  std::string html = fmt::format(
      "<figure><figcaption>{}</figcaption><table class=\"heat{}\"><thead><tr><th class=\"corner\"></th>",
      html_escape(caption), dense ? " dense" : "");
  const auto name = [&](int c) { return html_escape(format::class_name(class_names, c)); };
  for (int c = 0; c < classes; ++c) {
    html += fmt::format("<th scope=\"col\" title=\"{}\"{}>{}</th>", name(c),
                        target.single() == c ? " class=\"t\"" : "",
                        dense && c % 5 != 0 ? "" : fmt::format("{}", c));
  }
  html += "</tr></thead><tbody>";
  for (int r = 0; r < classes; ++r) {
    const std::int64_t total = counts.row(r).sum();
    html +=
        fmt::format("<tr><th scope=\"row\" title=\"{0}\"{1}>{2}</th>", name(r),
                    target.single() == r ? " class=\"t\"" : "",
                    dense ? (r % 5 == 0 ? fmt::format("{}", r) : "")
                          : fmt::format("{}{}", class_names.empty() ? "" : fmt::format("{} ", r), name(r)));
    for (int c = 0; c < classes; ++c) {
      const auto n = counts(r, c);
      const double share = total == 0 ? 0 : static_cast<double>(n) / static_cast<double>(total);
      // Every nonzero count is visible.
      const double shade = n == 0 ? 0 : 0.06 + 0.94 * share;
      const bool is_target = !target.single() && target.moves(r) && target.of(r) == c;
      const char* kind = shade > 0.55 ? (is_target ? " class=\"hi to\"" : " class=\"hi\"")
                         : is_target  ? " class=\"to\""
                                      : "";
      html += fmt::format("<td style=\"--v:{:.2f}\"{}>{}</td>", shade, kind,
                          dense || n == 0 ? "" : fmt::format("{}", n));
    }
    html += "</tr>";
  }
  return html + "</tbody></table></figure>";
}

/// Renders the confusion matrices that were measured, unless they have too many classes.
REFINE_INLINE std::string html_matrices(const DefenseReport& report) {
  if (report.after.classes > max_confusion_classes) return "";
  const auto matrix = [&](std::string_view caption, const metrics::ConfusionMatrix& counts) {
    return html_confusion(caption, counts, report.class_names, report.after.target);
  };
  std::string html;
  if (report.before.clean.size() > 0 && report.after.clean.size() > 0) {
    html += matrix("Clean images, before", report.before.clean) +
            matrix("Clean images, after", report.after.clean);
  }
  if (report.before.triggered.size() > 0 && report.after.triggered.size() > 0) {
    html += matrix("Triggered images, before", report.before.triggered) +
            matrix("Triggered images, after", report.after.triggered);
  }
  return html.empty() ? html : "<div class=\"grid\">" + html + "</div>";
}

/// Renders the image sheet, with the images as PNG inside the page.
REFINE_INLINE std::string html_sheet(const ImageSheet& sheet) {
  if (sheet.rows.empty()) return "";
  std::string html = "<table class=\"sheet\"><thead><tr>";
  for (const auto& column : sheet.columns) html += "<th scope=\"col\">" + html_escape(column) + "</th>";
  html += "</tr></thead><tbody>";
  for (const auto& row : sheet.rows) {
    html += "<tr>";
    for (std::size_t c = 0; c < row.images.size(); ++c) {
      const auto caption = row.captions.empty() ? std::string() : html_escape(row.captions[c]);
      html += fmt::format(
          "<td><img{} alt=\"{}\" src=\"data:image/png;base64,{}\">{}</td>",
          std::max(sheet.height, sheet.width) < 128 ? " class=\"small\"" : "", html_escape(sheet.columns[c]),
          base64(png(interleave_rgb(sheet, row.images[c]), sheet.height, sheet.width)), caption);
    }
    html += "</tr>";
  }
  return html + "</tbody></table>";
}

REFINE_INLINE Ticks::Ticks(double low, double high, int intervals, bool integers_only) {
  const double size = std::max(std::abs(low), std::abs(high));
  if (!(high - low > 1e-9 * size && size > 1e-12)) {  // one value, but for rounding
    const double margin = size > 1e-12 ? 0.1 * size : 1;
    low -= margin;
    high += margin;
  }
  const double raw = (high - low) / intervals;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double ratio = raw / power;
  step = power * (ratio <= 1 ? 1 : ratio <= 2 ? 2 : ratio <= 5 ? 5 : 10);
  if (integers_only) step = std::max(1.0, step);
  first = std::floor(low / step + 1e-9) * step;
  count = static_cast<int>(std::ceil((high - first) / step - 1e-9)) + 1;
}

REFINE_INLINE std::string tick_text(double value) {
  if (std::abs(value) < 1e-12) value = 0;
  return fmt::format("{:.6g}", value);
}

REFINE_INLINE std::string svg_curve(const Curve& curve) {
  constexpr double left = 52, right = 428, top = 14, bottom = 186;
  double x_low = std::numeric_limits<double>::infinity(), x_high = -x_low, y_low = x_low, y_high = -x_low;
  bool integers_only = true;
  const std::size_t n = std::min(curve.x.size(), curve.y.size());
  constexpr double max_value = 1e300;  // whose differences are finite
  const auto is_drawn = [&](std::size_t i) {
    return std::abs(curve.x[i]) <= max_value && std::abs(curve.y[i]) <= max_value;  // not NaN
  };
  for (std::size_t i = 0; i < n; ++i) {
    if (!is_drawn(i)) continue;
    x_low = std::min(x_low, curve.x[i]), x_high = std::max(x_high, curve.x[i]);
    y_low = std::min(y_low, curve.y[i]), y_high = std::max(y_high, curve.y[i]);
    integers_only = integers_only && curve.x[i] == std::round(curve.x[i]);
  }
  if (x_low > x_high) return "";
  if (x_low == x_high) x_low -= 1, x_high += 1;
  const Ticks ys(y_low, y_high, 4);
  const Ticks xs(x_low, x_high, 6, integers_only);
  const auto px = [&](double x) { return left + (x - x_low) / (x_high - x_low) * (right - left); };
  const auto py = [&](double y) { return bottom - (y - ys.first) / (ys.last() - ys.first) * (bottom - top); };

  std::string svg =
      fmt::format("<svg class=\"chart\" viewBox=\"0 0 440 230\" role=\"img\" aria-label=\"{}\">",
                  html_escape(curve.name));
  for (int i = 0; i < ys.count; ++i) {
    svg += fmt::format(
        "<line class=\"rule\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>",
        left, right, py(ys.position(i)), left - 8, py(ys.position(i)) + 4, tick_text(ys.position(i)));
  }
  for (int i = 0; i < xs.count; ++i) {
    if (xs.position(i) < x_low || xs.position(i) > x_high) continue;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>", px(xs.position(i)),
                       bottom + 18, tick_text(xs.position(i)));
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>", (left + right) / 2,
                     bottom + 38, html_escape(curve.x_label));

  std::string path;
  bool pen_down = false;
  std::size_t last = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (is_drawn(i)) {
      path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", px(curve.x[i]), py(curve.y[i]));
      last = i;
    }
    pen_down = is_drawn(i);
  }
  svg += fmt::format("<path class=\"line\" d=\"{}\"/>", path);
  const double y = py(curve.y[last]);
  svg += fmt::format(
      "<circle class=\"dot\" cx=\"{0:.1f}\" cy=\"{1:.1f}\" r=\"3.5\"/>"
      "<text class=\"last\" x=\"{0:.1f}\" y=\"{2:.1f}\" text-anchor=\"end\">{3:.4g}</text></svg>",
      px(curve.x[last]), y, y < top + 20 ? y + 18 : y - 9, curve.y[last]);
  return svg;
}

REFINE_INLINE std::string html_curves(const DefenseReport& report) {
  std::string html;
  for (const auto& curve : report.curves) {
    const auto svg = svg_curve(curve);
    if (svg.empty()) continue;
    const auto unit = curve.unit.empty() ? std::string() : ", " + html_escape(curve.unit);
    html +=
        fmt::format("<figure><figcaption>{}{}</figcaption>{}</figure>", html_escape(curve.name), unit, svg);
  }
  return html.empty() ? html : "<div class=\"grid\">" + html + "</div>";
}

REFINE_INLINE std::string html_facts(const DefenseReport& report) {
  std::string html;
  for (const auto& [name, value] : report.facts) {
    html += fmt::format("<dt>{}</dt><dd>{}</dd>", html_escape(name), html_escape(value));
  }
  return html.empty() ? html : "<dl class=\"facts\">" + html + "</dl>";
}

}  // namespace detail

REFINE_INLINE std::string html_escape(std::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  while (!text.empty()) {
    const std::size_t blank = std::min(text.find_first_of("\n\t"), text.size());
    for (const char c : refine::text::printable(text.substr(0, blank))) {
      switch (c) {
        case '&':
          safe += "&amp;";
          break;
        case '<':
          safe += "&lt;";
          break;
        case '>':
          safe += "&gt;";
          break;
        case '"':
          safe += "&quot;";
          break;
        case '\'':
          safe += "&#39;";
          break;
        default:
          safe += c;
      }
    }
    safe += text.substr(blank, 1);
    text.remove_prefix(std::min(blank + 1, text.size()));
  }
  return safe;
}

REFINE_INLINE std::string html(const DefenseReport& report) {
  check_complete(report);
  const Verdict v = verdict(report);
  const std::string_view tone = v.kind == Verdict::Kind::disarmed    ? (v.costly ? "warn" : "good")
                                : v.kind == Verdict::Kind::armed     ? "bad"
                                : v.kind == Verdict::Kind::uncertain ? "warn"
                                                                     : "flat";
  const auto title = html_escape(report.title.empty() ? "REFINE defense report" : report.title);
  std::string subtitle;
  for (const auto& part : {report.attack, report.dataset, report.model}) {
    if (!part.empty()) subtitle += (subtitle.empty() ? "" : " · ") + html_escape(part);
  }
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<title>{0}</title>\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<style>{1}</style></head>\n<body><main>\n"
      "<header><h1>{0}</h1><p class=\"sub\">{2}</p></header>\n"
      "<div class=\"verdict {3}\"><p><strong>{4}</strong>{5}</p>{6}<p><b>{7}.</b></p></div>\n",
      title, detail::html_style, subtitle, tone, html_escape(v.headline),
      detail::keep_percent_signs(html_escape(v.paragraph)),
      v.finding.empty() ? "" : "<p>" + detail::keep_percent_signs(html_escape(v.finding)) + ".</p>",
      detail::keep_percent_signs(html_escape(v.advice())));
  page +=
      detail::section("Figures", "Each with its 95 % confidence interval. Changes are in percentage points.",
                      detail::html_figures(report));
  page += detail::section(
      "What the trigger adds to each class",
      "In percentage points, over the same images with and without the trigger. A disarmed trigger leaves short blue "
      "bars at every class. A long blue bar at a class other than the target means that the attack was only moved there.",
      detail::html_lifts(report));
  page += detail::section(
      "Scan",
      fmt::format(
          "Common triggers, guessed and applied to {} clean images. The lift of a class is the share of images "
          "predicted as the class with the trigger minus the share without it, over the images that the victim assigns "
          "to other classes. The table gives the class with the largest lift. Red marks a lift that coincidence does not "
          "explain: more than {:.0f} points for a small trigger, {:.0f} for a change of the whole image.",
          format::count(report.scan.empty() ? 0 : report.scan.front().images()), 100 * scan_finding,
          100 * scan_finding_whole),
      detail::html_scan(report));
  page += detail::section(
      "Alarm",
      "An image raises the alarm if the predictions with and without the defense disagree too much. The threshold was "
      "set on clean images only.",
      detail::html_alarm(report));
  page += detail::section(
      report.answer == Answer::gated ? "Gated answer (served)" : "Gated answer",
      "The victim's answer where the alarm is silent, the defended one where it is raised. On clean images it loses at "
      "most the share of false alarms. It trusts the alarm: an attacker whose trigger does not raise it gets the "
      "victim's answer, backdoor and all. The second table has it at other thresholds of the alarm; in the charts, the "
      "number is the value where every image gets the defended answer.",
      detail::html_gated(report));
  page += detail::section("Images and predictions",
                          "Test images at each stage, with the model's prediction below.",
                          detail::html_sheet(report.sheet));
  page += detail::section(
      "Confusion matrices",
      fmt::format(
          "Each row is {}, each column a predicted class. The shade is the share of the row. {}",
          report.after.triggered.size() > 0 && !has_labels(report) ? "the victim's class of the clean image"
                                                                   : "a true class",
          report.after.target.by_class().empty()
              ? "The target is underlined; a full column there is a working trigger."
              : "The target of each class has a frame; full frames with the trigger are a working one."),
      detail::html_matrices(report));
  page +=
      detail::section("Training", "The number in each chart is the last value.", detail::html_curves(report));
  page += detail::section("Setup", "Everything needed to reproduce this report.", detail::html_facts(report));
  page +=
      "<div class=\"words\"><p><b>Lift</b> of a class: over test images of classes that are not their own target, the share "
      "predicted as the class with the trigger minus the share of the same images predicted as the class without it. "
      "ASR covers only targets and misses an attack that was moved to another class; the largest lift does not.</p>"
      "<p><b>Pair lift</b> of a true class and another class: the same difference, over the images of the true class "
      "alone. An attack that sends each class to another one changes no class's share, and one that moves a single "
      "class is diluted by the others; the largest pair lift shows both. The intervals of the largest lifts are widened for "
      "being the largest of many (Bonferroni).</p>"
      "<p>A trigger that changes the whole image also shifts some predictions, as any corruption does. The zero point "
      "is the same metric for a benign model with the same defense.</p>"
      "<p>Intervals: Wilson for shares, quantiles of the Beta distribution for the promised false alarms, the paired "
      "interval of Bonett and Price for lifts, the variance of Hanley and "
      "McNeil for the AUROC. DER = (max(0, ΔASR) − max(0, ΔBA) + 1) / 2, where Δ = before − after. The counts are in "
      "metrics.json.</p></div>\n</main></body></html>\n";
  return page;
}

}  // namespace refine::report
