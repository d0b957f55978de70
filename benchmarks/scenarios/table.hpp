#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "benchmarks/scenarios/scenario.hpp"

namespace refine::scenarios {

/// Collects the results of the finished scenarios, in the order of `scenarios`.
///
/// \return an array with one object for each scenario: attack, network, accuracy of the benign
///   victim, metrics before and after, the zero point if it was measured, and the seconds
nlohmann::ordered_json collect(const std::vector<Scenario>& scenarios, const Setting& setting);

/// Formats the rows of `collect` as one Markdown table.
std::string markdown(const nlohmann::ordered_json& rows);

/// Formats what adversaries reached who wake backdoors, as a second table; empty if none was measured.
std::string waking_markdown(const nlohmann::ordered_json& rows);

/// Draws the rows of `collect` as one SVG picture: accuracy and largest lift, before and after, one
/// line for each scenario.
std::string svg(const nlohmann::ordered_json& rows);

}  // namespace refine::scenarios
