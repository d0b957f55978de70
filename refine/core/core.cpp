// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/core/atomic_file_definitions.hpp>
#include <refine/core/file_bytes_definitions.hpp>
#include <refine/core/one_line_definitions.hpp>
#include <refine/core/plain_name_definitions.hpp>
#include <refine/core/progress_meter_definitions.hpp>
