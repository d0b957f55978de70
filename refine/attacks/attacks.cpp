// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/attacks/perturbed_store_definitions.hpp>
#include <refine/attacks/pgd_definitions.hpp>
