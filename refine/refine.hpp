#pragma once

/// \file
/// Includes the whole library except for what only some programs need: downloads (`data/download.hpp`), foreign
/// programs (`programs/`), choice by name (`attacks/by_name.hpp`, `backbones/zoo.hpp`), the report's verdict and
/// sample images (`report/report.hpp`), other defenses (`baselines/baselines.hpp`), attackers who know them (`adversaries/adversaries.hpp`) and the product as a function
/// (`defend/defend.hpp`).

/// \mainpage refine
/// REFINE (Chen et al., ICLR 2025) in C++20 on LibTorch: defends an image classifier that may carry a backdoor, with
/// clean images and no labels.
///
/// ```cpp
/// auto defense = refine::Pipeline{refine::transforms::UNet<task>{}, refine::freeze(victim),
///                                 refine::remaps::Derangement<task>{}};
/// refine::fit(defense, images);
/// refine::export_torchscript(defense, "defended.pt");
/// ```
///
/// Start at the namespaces: `refine::triggers`, `refine::attacks`, `refine::backbones`, `refine::transforms`,
/// `refine::remaps`, `refine::objectives`, `refine::data`, `refine::metrics`, `refine::report`, `refine::formats`.

#include <refine/attacks/attacks.hpp>
#include <refine/backbones/backbones.hpp>
#include <refine/core/core.hpp>
#include <refine/data/data.hpp>
#include <refine/evaluation/evaluation.hpp>
#include <refine/export/export.hpp>
#include <refine/metrics/metrics.hpp>
#include <refine/nn/nn.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/report/render.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/transforms.hpp>
#include <refine/triggers/triggers.hpp>

#if defined(REFINE_COMPILED_LIB)
#include <refine/detail/any_pipeline_instances.hpp>
#endif
