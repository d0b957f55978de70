#pragma once

/// \namespace refine::adversaries
/// Attackers who know the defense: they train the victim themselves, beside a surrogate of the defense that its
/// user will train.
///
/// ```cpp
/// using namespace refine;
/// const auto student = adversaries::SurrogateStudent{.task = task};
/// auto victim = adversaries::train_against(backbones::ResNet18<task>{}, train, trigger, student, {.dormant = true});
/// ```

#include <refine/adversaries/surrogates.hpp>
#include <refine/adversaries/train_against.hpp>
