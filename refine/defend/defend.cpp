// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/defend/probe_definitions.hpp>
