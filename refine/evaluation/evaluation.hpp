#pragma once

#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/evaluation/result.hpp>
