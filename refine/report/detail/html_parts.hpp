#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <refine/metrics/confusion.hpp>
#include <refine/report/defense_report.hpp>

namespace refine::report::detail {

/// A confusion matrix of more classes is not shown: unreadable, and a heavy page.
inline constexpr int max_confusion_classes = 60;

/// The lift table has at most this many classes: those with the largest lifts, before or after.
inline constexpr std::size_t max_lift_bars = 24;

/// The page's style sheet. Light or dark as the reader's system is set, always light on paper. No
/// external resource. Colors differ in lightness as well as in hue.
inline constexpr std::string_view html_style = R"css(
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#5b6675;--line:#dde2e9;
--before:#b9744f;--after:#2563a8;--heat:37 99 168;--good:#1d7a46;--bad:#b3261e;--warn:#8a5a00;--hi:#fff}
@media (prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1a2029;--ink:#e6eaf0;--soft:#9aa6b5;--line:#2e3742;
--before:#e0a17c;--after:#74b0f4;--heat:116 176 244;--good:#5cc98b;--bad:#ff8a80;--warn:#f0b955;--hi:#0d1117}}
@media print{:root{color-scheme:light;--bg:#fff;--card:#fff;--ink:#111;--soft:#444;--line:#ccc;--before:#b9744f;
--after:#2563a8;--heat:37 99 168;--good:#1d7a46;--bad:#b3261e;--warn:#8a5a00;--hi:#fff}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
section,figure,.verdict{break-inside:avoid}main{max-width:none!important;padding:0!important}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 20px 48px}
h1{font-size:1.75rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.125rem;margin:0 0 4px}
p{margin:0}
.sub{color:var(--soft);margin-top:4px;overflow-wrap:anywhere}
.note{color:var(--soft);font-size:.875rem;max-width:70ch;margin-bottom:14px}
section,.verdict{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:20px;margin-top:20px}
.verdict{border-left:6px solid var(--tone)}
.verdict strong{display:block;color:var(--tone);font-size:1.25rem;line-height:1.3;margin-bottom:4px}
.verdict p{max-width:75ch;overflow-wrap:anywhere}
.good{--tone:var(--good)}.bad{--tone:var(--bad)}.warn{--tone:var(--warn)}.flat{--tone:var(--soft)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th{font-weight:600;text-align:left}
.figures{width:100%}
.figures th,.figures td{padding:8px 10px;border-top:1px solid var(--line);vertical-align:top}
.figures thead th{border-top:0;color:var(--soft);font-size:.875rem;padding-top:0}
.figures td,.figures thead th:not(:first-child){text-align:right;white-space:nowrap}
.figures th:first-child,.figures td:first-child{padding-left:0}
.figures th small,.figures td small{display:block;font-weight:400;color:var(--soft);font-size:.8125rem}
.absent{color:var(--soft);font-size:.875rem}
table+.absent{border-top:1px solid var(--line);padding-top:8px}
.scan td:nth-child(odd){text-align:left!important;overflow:hidden;text-overflow:ellipsis;max-width:18ch}
.scan thead th:nth-child(odd){text-align:left!important}
.scan .found{color:var(--bad);font-weight:600}
.scan tbody th{font-weight:400}
.figures td small{max-width:22ch;margin-left:auto;overflow:hidden;text-overflow:ellipsis}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.875rem;color:var(--soft);margin-bottom:8px}
.key span::before{content:"";display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:6px;
vertical-align:-1px;background:var(--c)}
.b{--c:var(--before)}.a{--c:var(--after)}
.lifts{width:100%;table-layout:fixed;font-size:.875rem}
.lifts th{width:24%;padding:3px 10px 3px 0;font-weight:400;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.lifts .num{width:8.5ch;padding-left:8px;text-align:right;white-space:nowrap;box-sizing:content-box}
.lifts .target th{font-weight:700;line-height:1.2}
.lifts small{display:block;font-weight:400;color:var(--soft)}
.lifts tr+tr>*{border-top:1px solid var(--line)}
.lifts svg{display:block;width:100%;height:20px}
.lifts .zero{fill:var(--soft)}
.lifts rect.b{fill:var(--before)}.lifts rect.a{fill:var(--after)}
.num .b{color:var(--before)}.num .a{color:var(--after)}.num span{display:block;line-height:1.25}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:22px 26px}
figure{margin:0;min-width:0}
figcaption{font-weight:600;font-size:.875rem;margin-bottom:6px}
.heat{width:100%;table-layout:fixed;font-size:.6875rem}
.heat th{color:var(--soft);font-weight:400;text-align:center;padding:1px 0}
.heat tbody th{text-align:right;padding-right:6px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.heat .corner{width:5.6rem}
.heat td{text-align:center;padding:0;height:24px;border:1px solid var(--card);background:rgb(var(--heat)/var(--v));
overflow:hidden;white-space:nowrap}
.heat td.hi{color:var(--hi)}
.heat .t{color:var(--ink);font-weight:700;text-decoration:underline;text-underline-offset:2px}
.heat .to{outline:2px solid var(--bad);outline-offset:-2px}
.dense td{height:auto;font-size:0;padding-top:min(1.2vw,8px);border-width:0}
.heat.dense tbody th{line-height:0;overflow:visible;padding-top:0;padding-bottom:0}
.dense .corner{width:2.2rem}
.chart{width:100%;height:auto;display:block;overflow:visible}
.chart text{fill:var(--soft);font-size:12px;font-family:inherit}
.chart .rule{stroke:var(--line)}
.chart .line{fill:none;stroke:var(--after);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.chart .dot{fill:var(--after)}
.chart .last{fill:var(--ink);font-weight:600}
.sheet{width:100%;max-width:720px;table-layout:fixed}
.sheet th{font-size:.8125rem;line-height:1.25;color:var(--soft);padding:0 6px 8px;vertical-align:bottom;text-align:center}
.sheet td{padding:0 6px 14px;text-align:center;vertical-align:top;font-size:.8125rem;line-height:1.3;
overflow-wrap:anywhere}
.sheet img{display:block;width:100%;max-width:132px;margin:0 auto 4px;border-radius:4px;image-rendering:auto}
.sheet img.small{image-rendering:pixelated}
.facts{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:0;margin:8px 0 0;font-size:.9375rem}
.facts dt,.facts dd{margin:0;padding:6px 0;border-top:1px solid var(--line);overflow-wrap:anywhere}
.facts dt{color:var(--soft);padding-right:22px}
.words{color:var(--soft);font-size:.875rem;margin-top:24px;max-width:80ch}
.words p+p{margin-top:6px}
@media (max-width:560px){main{padding:20px 12px 32px}section,.verdict{padding:14px;margin-top:14px}
h1{font-size:1.4rem}.heat{font-size:.5625rem}.heat td{height:20px}.heat .corner{width:4.2rem}
.figures thead{display:none}.figures,.figures tbody{display:block}
.figures tr{display:grid;grid-template-columns:1fr 1fr 1fr;border-top:1px solid var(--line);padding:8px 0}
.figures tr:first-child{border-top:0;padding-top:0}
.figures th,.figures td{border:0;padding:2px 6px 2px 0;text-align:left;white-space:normal}
.figures td small{margin-left:0}
.figures td:empty{display:none}
.scan tr{grid-template-columns:1fr 1fr}
.figures th{grid-column:1/-1}.figures td::before{content:attr(data-k);display:block;color:var(--soft);font-size:.75rem}
.sheet th,.sheet td{padding-left:3px;padding-right:3px;font-size:.75rem}
.facts{grid-template-columns:1fr}.facts dd{border-top:0;padding-top:0}.facts dt{padding-bottom:0}}
)css";

/// Encodes bytes in base64 with padding (RFC 4648).
std::string base64(std::string_view bytes);

/// Renders the table of metrics before and after: the largest lift and that of a pair, the moved
/// share, ASR, BA, RA, DER and the agreement, and a note on those that were not measured. Empty if none was.
std::string html_figures(const DefenseReport& report);

/// Renders a table with the lift of each class as bars, before and after. Empty without a trigger.
std::string html_lifts(const DefenseReport& report);

/// Renders a table with one row for each guessed trigger: the class that it lifts most, before and
/// after. Empty without a scan.
std::string html_scan(const DefenseReport& report);

/// Renders the table of the alarm: false alarms and, with triggered images, detections, AUROC and
/// the detections at 1 % and 5 % of false alarms. Empty without an alarm.
std::string html_alarm(const DefenseReport& report);

/// Renders the gated answer beside the victim's and the defended one, and its curve over thresholds of
/// the alarm. Empty if it was not measured.
std::string html_gated(const DefenseReport& report);

/// Renders a confusion matrix as a heat map: one row for each true class, shaded by the share of
/// the row.
///
/// \param caption  plain text
/// \param counts  classes × classes
/// \param class_names  one for each class, or empty
/// \param target  class to underline, or cells to frame, if any
std::string html_confusion(std::string_view caption, const metrics::ConfusionMatrix& counts,
                           const std::vector<std::string>& class_names, const metrics::Target& target);

/// Positions of the labels on an axis: round steps of 1, 2 or 5 times a power of ten that cover a
/// range.
struct Ticks {
  double first = 0;  ///< position of the first label
  double step = 1;   ///< distance between labels
  int count = 1;     ///< number of labels

  /// \param low  start of the range
  /// \param high  end of the range
  /// \param intervals  about how many steps to make
  /// \param integers_only  true for a step of at least 1
  Ticks(double low, double high, int intervals, bool integers_only = false);

  /// Returns the position of label `i`.
  double position(int i) const { return first + i * step; }

  /// Returns the position of the last label.
  double last() const { return position(count - 1); }
};

/// Draws a curve as inline SVG of 440 × 230 units, which scales with the page. Empty if no point is
/// finite.
std::string svg_curve(const Curve& curve);

}  // namespace refine::report::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/html.ipp>
#endif
