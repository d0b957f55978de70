#pragma once

#include <refine/report/defense_report.hpp>
#include <refine/report/html.hpp>
#include <refine/report/images.hpp>
#include <refine/report/json.hpp>
#include <refine/report/sample_sheet.hpp>
#include <refine/report/terminal.hpp>
#include <refine/report/verdict.hpp>
