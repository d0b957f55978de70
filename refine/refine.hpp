#pragma once

/// \file
/// The whole library but what not every program needs: downloading (`data/download.hpp`), foreign programs
/// (`programs/`), and the report's pages (`report/`).

#include <refine/attacks/attacks.hpp>
#include <refine/backbones/backbones.hpp>
#include <refine/core/core.hpp>
#include <refine/data/data.hpp>
#include <refine/evaluation/evaluation.hpp>
#include <refine/export/export.hpp>
#include <refine/metrics/metrics.hpp>
#include <refine/nn/nn.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/pipeline/any_pipeline.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/report/terminal.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/transforms.hpp>
#include <refine/triggers/triggers.hpp>
