#pragma once

#include <refine/metrics/alarm_figures.hpp>
#include <refine/metrics/auroc.hpp>
#include <refine/metrics/confusion_matrix.hpp>
#include <refine/metrics/der.hpp>
#include <refine/metrics/figures.hpp>
#include <refine/metrics/interval.hpp>
#include <refine/metrics/labels.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/predictions.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/metrics/scan_entry.hpp>
