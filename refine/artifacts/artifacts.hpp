#pragma once

#include <refine/artifacts/defense.hpp>
#include <refine/artifacts/export_torchscript.hpp>
#include <refine/artifacts/state_dict.hpp>
#include <refine/artifacts/victim.hpp>
