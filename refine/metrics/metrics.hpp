#pragma once

#include <refine/metrics/attack_metrics.hpp>
#include <refine/metrics/confusion.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/metrics/roc.hpp>
