#pragma once

/// \namespace refine::baselines
/// Known defenses, to compare REFINE with. Each models `DefendedClassifier`, so that `evaluate`,
/// `evaluate_alarm` and `scan` measure all of them by the same code. `by_name.hpp`, the choice at run
/// time, is not included by `baselines.hpp`.
///
/// ```cpp
/// using namespace refine;
/// const auto padded = Pipeline{baselines::ShrinkPad<task.image>{}, freeze(victim), remaps::None<task>{}};
/// std::cout << evaluate(padded, test, attack);
/// ```

#include <refine/baselines/detectors.hpp>
#include <refine/baselines/preprocessing.hpp>
#include <refine/baselines/purifiers.hpp>
#include <refine/baselines/substitutes.hpp>
