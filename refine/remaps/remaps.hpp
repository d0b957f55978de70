#pragma once

#include <refine/remaps/permutations.hpp>
#include <refine/remaps/remap.hpp>
