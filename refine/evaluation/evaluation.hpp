#pragma once

#include <refine/evaluation/agreement.hpp>
#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/evaluation/progress.hpp>
#include <refine/evaluation/require_fit.hpp>
#include <refine/evaluation/result.hpp>
#include <refine/evaluation/scan.hpp>
#include <refine/evaluation/scan_catalogue.hpp>
