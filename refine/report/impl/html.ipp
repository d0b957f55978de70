#pragma once

#include <refine/report/detail/html_parts.hpp>
#include <refine/report/html.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string_view>

#include <refine/core/config.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/report/detail/curve.hpp>
#include <refine/report/detail/words.hpp>
#include <refine/report/verdict.hpp>

namespace refine::report::detail {

/// Keeps a figure and its percent sign on one line.
REFINE_INLINE std::string unbroken(std::string text) {
  for (auto at = text.find(" %"); at != std::string::npos; at = text.find(" %", at))
    text.replace(at, 1, "\u00a0");
  return text;
}

REFINE_INLINE std::string section(std::string_view title, std::string_view note, std::string_view body) {
  if (body.empty()) return "";
  return fmt::format("<section><h2>{}</h2><p class=\"note\">{}</p>{}</section>\n", title, note, body);
}

REFINE_INLINE std::string html_matrices(const DefenseReport& r) {
  if (r.after.classes > most_confusion_classes) return "";
  const auto matrix = [&](std::string_view caption, const metrics::ConfusionMatrix& counts) {
    return html_confusion(caption, counts, r.class_names, r.after.target);
  };
  std::string html;
  if (r.before.clean.size() > 0 && r.after.clean.size() > 0) {
    html += matrix("Clean images, before", r.before.clean) + matrix("Clean images, after", r.after.clean);
  }
  if (r.before.triggered.size() > 0 && r.after.triggered.size() > 0) {
    html += matrix("Triggered images, before", r.before.triggered) +
            matrix("Triggered images, after", r.after.triggered);
  }
  return html.empty() ? html : "<div class=\"grid\">" + html + "</div>";
}

REFINE_INLINE std::string html_sheet(const ImageSheet& sheet) {
  if (sheet.rows.empty()) return "";
  std::string html = "<table class=\"sheet\"><thead><tr>";
  for (const auto& column : sheet.columns) html += "<th scope=\"col\">" + html_escape(column) + "</th>";
  html += "</tr></thead><tbody>";
  for (const auto& row : sheet.rows) {
    html += "<tr>";
    for (std::size_t c = 0; c < row.images.size(); ++c) {
      const auto caption = row.captions.empty() ? std::string() : html_escape(row.captions[c]);
      html += fmt::format("<td><img{} alt=\"{}\" src=\"data:image/png;base64,{}\">{}</td>",
                          std::max(sheet.height, sheet.width) < 128 ? " class=\"small\"" : "",
                          html_escape(sheet.columns[c]),
                          base64(png(interleaved(sheet, row.images[c]), sheet.height, sheet.width)), caption);
    }
    html += "</tr>";
  }
  return html + "</tbody></table>";
}

REFINE_INLINE std::string html_curves(const DefenseReport& r) {
  std::string html;
  for (const auto& curve : r.curves) {
    const auto svg = svg_curve(curve);
    if (svg.empty()) continue;
    const auto unit = curve.unit.empty() ? std::string() : ", " + html_escape(curve.unit);
    html +=
        fmt::format("<figure><figcaption>{}{}</figcaption>{}</figure>", html_escape(curve.name), unit, svg);
  }
  return html.empty() ? html : "<div class=\"grid\">" + html + "</div>";
}

REFINE_INLINE std::string html_facts(const DefenseReport& r) {
  std::string html;
  for (const auto& [name, value] : r.facts) {
    html += fmt::format("<dt>{}</dt><dd>{}</dd>", html_escape(name), html_escape(value));
  }
  return html.empty() ? html : "<dl class=\"facts\">" + html + "</dl>";
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_INLINE std::string html(const DefenseReport& r) {
  require_complete(r);
  const Verdict v = verdict(r);
  const std::string_view tone = v.kind == Verdict::Kind::disarmed    ? (v.costly ? "warn" : "good")
                                : v.kind == Verdict::Kind::armed     ? "bad"
                                : v.kind == Verdict::Kind::uncertain ? "warn"
                                                                     : "flat";
  const auto title = html_escape(r.title.empty() ? "REFINE defense report" : r.title);
  std::string sub;
  for (const auto& part : {r.attack, r.dataset, r.model}) {
    if (!part.empty()) sub += (sub.empty() ? "" : " · ") + html_escape(part);
  }
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<title>{0}</title>\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<style>{1}</style></head>\n<body><main>\n"
      "<header><h1>{0}</h1><p class=\"sub\">{2}</p></header>\n"
      "<div class=\"verdict {3}\"><p><strong>{4}</strong>{5}</p></div>\n",
      title, html_style, sub, tone, html_escape(v.headline), detail::unbroken(html_escape(v.paragraph)));
  page += detail::section("Figures", "Each with its 95 % interval; changes in percentage points.",
                          html_figures(r));
  page += detail::section(
      "What the trigger adds to each class",
      "In percentage points, over the same images with and without the trigger. A disarmed trigger "
      "leaves short blue bars everywhere; a long one away from the target is an attack that was "
      "only sent elsewhere.",
      html_lifts(r));
  page += detail::section(
      "Scan",
      fmt::format(
          "Common triggers, guessed and put on {} clean images: over the images that the victim does "
          "not itself call so, the share predicted as a class with the trigger minus the share without "
          "it, at the class where that is largest. In red, what is no accident: more than {:.0f} points "
          "by a small trigger, {:.0f} by a change of the whole image.",
          words::count(r.scan.empty() ? 0 : r.scan.front().images()), 100 * scan_finding,
          100 * scan_finding_whole),
      html_scan(r));
  page +=
      detail::section("Alarm",
                      "An image raises it when the answers with and without the defense disagree too much. "
                      "Its threshold was set on clean images alone.",
                      html_alarm(r));
  page +=
      detail::section("What the model sees, and says",
                      "Test images at each stage, with the prediction below.", detail::html_sheet(r.sheet));
  page += detail::section(
      "Confusion matrices",
      "A row is a true class, a column a predicted one; the shade is the share of the row. The "
      "target is underlined. A full column is a working trigger.",
      detail::html_matrices(r));
  page += detail::section("Training", "The last value is written out.", detail::html_curves(r));
  page += detail::section("How it was made", "What is needed to make it again.", detail::html_facts(r));
  page +=
      "<div class=\"words\"><p><b>Lift</b> of a class: over test images of classes other than the target, "
      "the share "
      "predicted so with the trigger minus the share of the same images predicted so without it. ASR watches "
      "the target "
      "alone and is blind to an attack that was moved to another class; the largest lift is not.</p>"
      "<p>A trigger that changes the whole image also shifts some predictions as any corruption would. The "
      "same figure "
      "for a benign model, defended alike, is its zero point.</p>"
      "<p>Shares have Wilson intervals, lifts the paired interval of Bonett and Price, the AUROC that of "
      "Hanley "
      "and McNeil's variance. DER = (max(0, ΔASR) − "
      "max(0, ΔBA) "
      "+ 1) / 2, Δ = before − after. The counts are in metrics.json.</p></div>\n</main></body></html>\n";
  return page;
}

REFINE_INLINE std::string base64(std::string_view bytes) {
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t have = bytes.size() - i;
    const auto at = [&](std::size_t k) { return k < have ? static_cast<unsigned char>(bytes[i + k]) : 0u; };
    const unsigned word = at(0) << 16 | at(1) << 8 | at(2);
    text += alphabet[word >> 18 & 63];
    text += alphabet[word >> 12 & 63];
    text += have > 1 ? alphabet[word >> 6 & 63] : '=';
    text += have > 2 ? alphabet[word & 63] : '=';
  }
  return text;
}

REFINE_INLINE std::string html_escape(std::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  for (char c : text) {
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
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') {
          safe += c == 0x7f ? ' ' : c;
        } else {
          safe += ' ';
        }
    }
  }
  return safe;
}

REFINE_INLINE std::string html_alarm(const DefenseReport& r) {
  if (!r.alarm) return "";
  const metrics::AlarmFigures& alarm = *r.alarm;
  const auto row = [](std::string_view name, std::string_view meaning, std::string_view value,
                      const metrics::Interval& interval) {
    return fmt::format("<tr><th scope=\"row\">{}<small>{}</small></th><td data-k=\"share\">{}{}</td></tr>",
                       name, meaning, value, detail::html_interval(interval));
  };
  const auto share = [&](std::string_view name, std::string_view of, const metrics::Proportion& p) {
    return row(name, fmt::format("{}; {} images", of, words::count(p.n)), words::percent(p.value(), 2),
               p.wilson());
  };
  std::string html = "<table class=\"figures\"><tbody>";
  html += share("False alarms",
                fmt::format("of clean images; the threshold, {:.4g}, was set for {} on other clean images",
                            alarm.threshold, words::percent(alarm.wanted_rate)),
                alarm.false_alarms);
  if (alarm.detections) html += share("Detections", "of triggered images", *alarm.detections);
  if (alarm.auroc) {
    html += row("AUROC",
                fmt::format("pairs in which the triggered image scores higher, whatever the threshold; {} "
                            "triggered and {} clean images",
                            words::count(alarm.auroc->triggered), words::count(alarm.auroc->clean)),
                words::percent(alarm.auroc->value(), 2), alarm.auroc->interval());
  }
  html += "</tbody></table>";
  if (!alarm.detections)
    html += "<p class=\"absent\">Not measured, without a trigger: detections, AUROC.</p>";
  return html;
}

REFINE_INLINE std::string html_confusion(std::string_view caption, const metrics::ConfusionMatrix& counts,
                                         const std::vector<std::string>& class_names,
                                         std::optional<int> target) {
  const int classes = static_cast<int>(counts.rows());
  const bool dense = classes > 12;  // no room for numbers
  std::string html = fmt::format(
      "<figure><figcaption>{}</figcaption><table class=\"heat{}\"><thead><tr><th class=\"corner\"></th>",
      html_escape(caption), dense ? " dense" : "");
  const auto name = [&](int c) { return html_escape(words::class_name(class_names, c)); };
  for (int c = 0; c < classes; ++c) {
    html += fmt::format("<th scope=\"col\" title=\"{}\"{}>{}</th>", name(c),
                        target == c ? " class=\"t\"" : "", dense && c % 5 != 0 ? "" : fmt::format("{}", c));
  }
  html += "</tr></thead><tbody>";
  for (int r = 0; r < classes; ++r) {
    const std::int64_t total = counts.row(r).sum();
    html += fmt::format(
        "<tr><th scope=\"row\" title=\"{0}\"{1}>{2}</th>", name(r), target == r ? " class=\"t\"" : "",
        dense ? (r % 5 == 0 ? fmt::format("{}", r) : "")
              : fmt::format("{}{}", class_names.empty() ? "" : fmt::format("{} ", r), name(r)));
    for (int c = 0; c < classes; ++c) {
      const auto n = counts(r, c);
      const double share = total == 0 ? 0 : static_cast<double>(n) / static_cast<double>(total);
      // A count that is not zero is never without a shade.
      const double shade = n == 0 ? 0 : 0.06 + 0.94 * share;
      html += fmt::format("<td style=\"--v:{:.2f}\"{}>{}</td>", shade, shade > 0.55 ? " class=\"hi\"" : "",
                          dense || n == 0 ? "" : fmt::format("{}", n));
    }
    html += "</tr>";
  }
  return html + "</tbody></table></figure>";
}

}  // namespace refine::report

namespace refine::report::detail {

REFINE_INLINE std::string html_interval(const metrics::Interval& i) {
  if (!(i.low <= i.high)) return "";
  return fmt::format("<small>{} to {}</small>", words::hundredths(i.low), words::hundredths(i.high));
}

REFINE_INLINE std::string html_row(std::string_view name, std::string_view meaning, std::string_view before,
                                   std::string_view after, std::string_view change) {
  return fmt::format(
      "<tr><th scope=\"row\">{}<small>{}</small></th><td data-k=\"before\">{}</td><td "
      "data-k=\"after\">{}</td>"
      "<td data-k=\"change\">{}</td></tr>",
      name, meaning, before, after, change);
}

REFINE_INLINE std::string html_share(std::string_view name, std::string_view meaning,
                                     const metrics::Proportion& before, const metrics::Proportion& after) {
  const auto cell = [](const metrics::Proportion& p) {
    return words::percent(p.value(), 2) + html_interval(p.wilson());
  };
  const std::string of = after.n == 0 ? "not measured: no target class"
                                      : fmt::format("{}; {} images", meaning, words::count(after.n));
  return html_row(name, of, cell(before), cell(after),
                  words::signed_hundredths(after.value() - before.value()));
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_INLINE std::string html_figures(const DefenseReport& r) {
  if (!has_labels(r) && !has_trigger(r) && !r.agreement && r.after.classes == 0) return "";
  const auto lift = [&](const metrics::Lift& l) {
    const auto name = html_escape(words::class_name(r.class_names, l.cls));
    return fmt::format("{} pt{}<small title=\"{}\">at {}</small>", words::hundredths(l.value()),
                       detail::html_interval(l.interval()), name, name);
  };
  const auto& before = r.before.largest_lift;
  const auto& after = r.after.largest_lift;
  const std::string others = r.after.target ? "of triggered images of other classes" : "of triggered images";
  std::string rows;
  if (has_trigger(r)) {
    rows += detail::html_row(
        "Largest lift",
        fmt::format("most that the trigger adds to any class; {} images", words::count(after.n)),
        lift(before), lift(after), words::signed_hundredths(after.value() - before.value()));
    rows += detail::html_share("ASR", others + ", predicted as the target", r.before.asr, r.after.asr);
  }
  if (has_labels(r)) rows += detail::html_share("BA", "accuracy on clean images", r.before.ba, r.after.ba);
  if (has_trigger(r)) {
    rows += detail::html_share("RA", others + ", predicted as their own class", r.before.ra, r.after.ra);
    rows += detail::html_row("DER", "defense effectiveness rating; 50 % is no defense",
                             std::string(words::missing),
                             words::percent(metrics::defense_effectiveness(r.before, r.after), 2), "");
  }
  if (r.agreement) {
    rows += detail::html_row(
        "Agreement",
        fmt::format("clean images that victim and defense call alike, without labels; {} images",
                    words::count(r.agreement->n)),
        std::string(words::missing),
        words::percent(r.agreement->value(), 2) + detail::html_interval(r.agreement->wilson()), "");
  }
  std::string html;
  if (!rows.empty()) {
    html =
        "<table class=\"figures\"><thead><tr><th></th><th>before</th><th>after</th><th>change</th></tr>"
        "</thead><tbody>" +
        rows + "</tbody></table>";
  }
  const std::string absent = not_measured(r);
  return absent.empty() ? html : html + "<p class=\"absent\">" + absent + "</p>";
}

REFINE_INLINE std::string html_lifts(const DefenseReport& r) {
  const auto& before = r.before.lifts;
  const auto& after = r.after.lifts;
  if (!has_trigger(r) || before.empty() || before.size() != after.size()) return "";
  std::vector<std::size_t> order(before.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::string note;
  if (order.size() > most_lift_bars) {
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::max(before[a].value(), after[a].value()) > std::max(before[b].value(), after[b].value());
    });
    note = fmt::format("<p class=\"note\">The {} largest of {} classes; all are in metrics.json.</p>",
                       most_lift_bars, order.size());
    order.resize(most_lift_bars);
  }
  double low = 0, high = 0.05;  // not less than this, or noise would fill the page
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
    const bool target = r.after.target == static_cast<int>(c);
    const auto name = html_escape(words::class_name(r.class_names, static_cast<int>(c)));
    html += fmt::format(
        "<tr{}><th scope=\"row\" title=\"{}\">{}{}</th><td><svg viewBox=\"0 0 1000 20\" "
        "preserveAspectRatio=\"none\" "
        "aria-hidden=\"true\">{}{}<rect class=\"zero\" x=\"{:.1f}\" y=\"0\" width=\"2\" "
        "height=\"20\"/></svg></td>"
        "<td class=\"num\"><span class=\"b\">{}</span><span class=\"a\">{}</span></td></tr>",
        target ? " class=\"target\"" : "", name, name, target ? "<small>target</small>" : "",
        bar(before[c], 2, "b"), bar(after[c], 11, "a"), std::max(0.0, x(0) - 1),
        words::signed_hundredths(before[c].value(), 1), words::signed_hundredths(after[c].value(), 1));
  }
  return html + "</tbody></table>";
}

}  // namespace refine::report
