// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/artifacts/defense_definitions.hpp>
#include <refine/artifacts/export_torchscript_definitions.hpp>
#include <refine/artifacts/served_definitions.hpp>
#include <refine/artifacts/state_dict_definitions.hpp>
#include <refine/artifacts/traced_module_definitions.hpp>
#include <refine/artifacts/victim_definitions.hpp>
