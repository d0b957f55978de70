#pragma once

/// \file
/// What programs ask of `AnyPipeline`. The compiled library has it, so that they do not compile it again.

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include <refine/attacks/attack.hpp>
#include <refine/data/dataset.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/export/export_defense.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/metrics/target.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>

/// Declares (`extern template`) or defines (`template`) the instances.
#define REFINE_ANY_PIPELINE_INSTANCES(declare_or_define)                                                  \
  declare_or_define void refine::fit(AnyPipeline&, const at::Tensor&, const Recipe&);                     \
  declare_or_define void refine::fit(AnyPipeline&, const at::Tensor&, const Recipe&, ProgressBar&&);      \
  declare_or_define void refine::fit(AnyPipeline&, const at::Tensor&, const Recipe&, History&);           \
  declare_or_define refine::Evaluation refine::evaluate(const AnyPipeline&, const data::Dataset&,         \
                                                        const at::Tensor&, const metrics::Target&, bool); \
  declare_or_define refine::Evaluation refine::evaluate(const AnyPipeline&, const data::Dataset&,         \
                                                        const attacks::AnyAttack&, bool);                 \
  declare_or_define refine::Evaluation refine::evaluate_clean(const AnyPipeline&, const data::Dataset&,   \
                                                              bool);                                      \
  declare_or_define void refine::export_torchscript(const AnyPipeline&, const std::filesystem::path&,     \
                                                    const nlohmann::ordered_json&,                        \
                                                    const refine::ServingOptions&);                       \
  declare_or_define void refine::export_defense(const AnyPipeline&, const std::filesystem::path&,         \
                                                const nlohmann::ordered_json&,                            \
                                                const refine::ServingOptions&)

REFINE_ANY_PIPELINE_INSTANCES(extern template);
