// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/transforms/encoder_decoder_definitions.hpp>
#include <refine/transforms/unet_definitions.hpp>
