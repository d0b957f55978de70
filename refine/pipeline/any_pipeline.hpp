#pragma once

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remap.hpp>
#include <refine/transforms/any_transform.hpp>

namespace refine {

/// A pipeline whose parts are chosen at run time: by a command line, or from a file.
///
/// Its members are those of `Pipeline`; `freeze` and `fit` take it as any other.
///
/// `AnyTransform`, `AnyBackbone` and `AnyRemap` hold any policy of their kind. A program that
/// instantiates `fit`, `evaluate` and `export_torchscript` only for this type handles every
/// transform, backbone and remap.
///
/// ```cpp
/// AnyPipeline defense{transforms::UNet<>{.image = image}, freeze(backbones::AnyBackbone{victim}),
///                     remaps::Derangement<>{.classes = 10}};
/// ```
using AnyPipeline =
    Pipeline<transforms::AnyTransform, backbones::Frozen<backbones::AnyBackbone>, remaps::AnyRemap>;

}  // namespace refine
