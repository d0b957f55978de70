#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "benchmarks/scenarios/scenario.hpp"

namespace refine::scenarios {

/// What is done, in the order of `scenarios`: an object a scenario with the attack, the network, the benign
/// victim's accuracy, the figures before and after, the zero point where it was measured, and the seconds.
nlohmann::ordered_json collect(const std::vector<Scenario>& scenarios, const Setting& setting);

/// The rows of `collect` as one Markdown table.
std::string markdown(const nlohmann::ordered_json& rows);

/// The rows of `collect` as one SVG picture: accuracy and largest lift, before and after, a line a scenario.
std::string svg(const nlohmann::ordered_json& rows);

}  // namespace refine::scenarios
