// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/formats/archive_definitions.hpp>
#include <refine/formats/foreign_file_definitions.hpp>
#include <refine/formats/pickle_builder_definitions.hpp>
#include <refine/formats/pickle_calls_definitions.hpp>
#include <refine/formats/pickle_machine_definitions.hpp>
#include <refine/formats/pickle_stack_definitions.hpp>
#include <refine/formats/safetensors_definitions.hpp>
#include <refine/formats/safetensors_header_definitions.hpp>
#include <refine/formats/script_code_definitions.hpp>
#include <refine/formats/script_pickle_definitions.hpp>
#include <refine/formats/script_pickled_definitions.hpp>
#include <refine/formats/script_source_definitions.hpp>
#include <refine/formats/torch_file_definitions.hpp>
#include <refine/formats/torchscript_definitions.hpp>
#include <refine/formats/value_definitions.hpp>
#include <refine/formats/weights_definitions.hpp>
#include <refine/formats/zip_directory_definitions.hpp>
