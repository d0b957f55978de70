#pragma once

/// \namespace refine::report Presents the results of a defense: a table for the terminal, a
///   self-contained HTML page, a picture of test images, and `metrics.json` for programs.
///
/// `verdict` puts the metrics into words.
///
/// A `DefenseReport` holds metrics (from `refine::metrics`) and images as plain bytes. Only
/// `sample_sheet` runs a network.
///
///     refine::report::DefenseReport report{
///         .title = "REFINE against BadNets",
///         .before = refine::metrics::attack_metrics(victim_predictions),
///         .after = refine::metrics::attack_metrics(defended_predictions)};
///     std::cout << report;
///     refine::report::write_report(report, "run");  // metrics.json, report.html, images.png

#include <refine/report/defense_report.hpp>
#include <refine/report/images.hpp>
#include <refine/report/render.hpp>
#include <refine/report/sample_sheet.hpp>
#include <refine/report/verdict.hpp>
