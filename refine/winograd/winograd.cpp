// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/winograd/convolution_definitions.hpp>
