#pragma once

#include <refine/artifacts/artifacts.hpp>
#include <refine/attacks/attacks.hpp>
#include <refine/backbones/backbones.hpp>
#include <refine/core/core.hpp>
#include <refine/data/data.hpp>
#include <refine/evaluation/evaluation.hpp>
#include <refine/metrics/metrics.hpp>
#include <refine/nn/nn.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/report/report.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/transforms.hpp>
#include <refine/triggers/triggers.hpp>
