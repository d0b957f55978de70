// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/evaluation/require_fit_definitions.hpp>
#include <refine/evaluation/scan_catalogue_definitions.hpp>
