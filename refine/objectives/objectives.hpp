#pragma once

#include <refine/objectives/bce.hpp>
#include <refine/objectives/distillation.hpp>
#include <refine/objectives/nll.hpp>
#include <refine/objectives/supcon.hpp>
