#pragma once

#include <refine/winograd/convolution.hpp>
#include <refine/winograd/instruction_set.hpp>
#include <refine/winograd/passes.hpp>
#include <refine/winograd/tiles.hpp>
