// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/nn/convolve_definitions.hpp>
#include <refine/nn/convolve_normed_definitions.hpp>
#include <refine/nn/device_definitions.hpp>
#include <refine/nn/device_of_definitions.hpp>
#include <refine/nn/foldable_definitions.hpp>
#include <refine/nn/free_memory_definitions.hpp>
#include <refine/nn/make_constant_definitions.hpp>
#include <refine/nn/repeated_definitions.hpp>
