#pragma once

#include <refine/export/torchscript.hpp>
#include <refine/export/weights.hpp>
#include <refine/nn/state_dict.hpp>
