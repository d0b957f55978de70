#pragma once

#include <refine/remaps/any_remap.hpp>
#include <refine/remaps/derangement.hpp>
#include <refine/remaps/none.hpp>
#include <refine/remaps/remapping_strategy.hpp>
#include <refine/remaps/shift.hpp>
