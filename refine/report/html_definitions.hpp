#pragma once

// What html.hpp declares.

#include <refine/report/html.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include <refine/core/compiled.hpp>
#include <refine/report/base64.hpp>
#include <refine/report/html_alarm.hpp>
#include <refine/report/html_confusion.hpp>
#include <refine/report/html_escape.hpp>
#include <refine/report/html_figures.hpp>
#include <refine/report/html_lifts.hpp>
#include <refine/report/html_scan.hpp>
#include <refine/report/html_style.hpp>
#include <refine/report/png.hpp>
#include <refine/report/scan_words.hpp>
#include <refine/report/sheet_png.hpp>
#include <refine/report/svg_curve.hpp>
#include <refine/report/verdict.hpp>
#include <refine/report/words.hpp>

namespace refine::report::detail {

/// Keeps a figure and its percent sign on one line.
REFINE_DEFINITION std::string unbroken(std::string text) {
  for (auto at = text.find(" %"); at != std::string::npos; at = text.find(" %", at))
    text.replace(at, 1, "\u00a0");
  return text;
}

REFINE_DEFINITION std::string section(std::string_view title, std::string_view note, std::string_view body) {
  if (body.empty()) return "";
  return fmt::format("<section><h2>{}</h2><p class=\"note\">{}</p>{}</section>\n", title, note, body);
}

REFINE_DEFINITION std::string html_matrices(const DefenseReport& r) {
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

REFINE_DEFINITION std::string html_sheet(const ImageSheet& sheet) {
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

REFINE_DEFINITION std::string html_curves(const DefenseReport& r) {
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

REFINE_DEFINITION std::string html_facts(const DefenseReport& r) {
  std::string html;
  for (const auto& [name, value] : r.facts) {
    html += fmt::format("<dt>{}</dt><dd>{}</dd>", html_escape(name), html_escape(value));
  }
  return html.empty() ? html : "<dl class=\"facts\">" + html + "</dl>";
}

}  // namespace refine::report::detail

namespace refine::report {

REFINE_DEFINITION std::string html(const DefenseReport& r) {
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

}  // namespace refine::report
