// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/backbones/densenet121_definitions.hpp>
#include <refine/backbones/fan_out_definitions.hpp>
#include <refine/backbones/inception_blocks_definitions.hpp>
#include <refine/backbones/inception_v3_definitions.hpp>
#include <refine/backbones/network_names_definitions.hpp>
#include <refine/backbones/preact_definitions.hpp>
#include <refine/backbones/residual_definitions.hpp>
#include <refine/backbones/scripted_module_definitions.hpp>
#include <refine/backbones/vgg_layers_definitions.hpp>
#include <refine/backbones/vit_blocks_definitions.hpp>
#include <refine/backbones/vit_definitions.hpp>
