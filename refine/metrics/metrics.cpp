// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/metrics/auroc_definitions.hpp>
#include <refine/metrics/figures_definitions.hpp>
#include <refine/metrics/labels_definitions.hpp>
#include <refine/metrics/lift_definitions.hpp>
#include <refine/metrics/proportion_definitions.hpp>
#include <refine/metrics/scan_entry_definitions.hpp>
