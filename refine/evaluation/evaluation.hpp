#pragma once

#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/evaluation/label_agreement.hpp>
#include <refine/evaluation/scan.hpp>
