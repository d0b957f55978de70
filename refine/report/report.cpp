// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/report/base64_definitions.hpp>
#include <refine/report/comparison_definitions.hpp>
#include <refine/report/defense_report_definitions.hpp>
#include <refine/report/html_alarm_definitions.hpp>
#include <refine/report/html_confusion_definitions.hpp>
#include <refine/report/html_definitions.hpp>
#include <refine/report/html_escape_definitions.hpp>
#include <refine/report/html_figures_definitions.hpp>
#include <refine/report/html_lifts_definitions.hpp>
#include <refine/report/image_sheet_definitions.hpp>
#include <refine/report/metrics_json_definitions.hpp>
#include <refine/report/metrics_node_definitions.hpp>
#include <refine/report/png_definitions.hpp>
#include <refine/report/read_figures_definitions.hpp>
#include <refine/report/read_metrics_definitions.hpp>
#include <refine/report/scan_words_definitions.hpp>
#include <refine/report/sheet_png_definitions.hpp>
#include <refine/report/svg_curve_definitions.hpp>
#include <refine/report/terminal_table_definitions.hpp>
#include <refine/report/verdict_definitions.hpp>
#include <refine/report/words_definitions.hpp>
