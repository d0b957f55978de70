#pragma once

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remap.hpp>
#include <refine/transforms/any_transform.hpp>

namespace refine {

/// A pipeline whose parts are known only when the program runs. A program that instantiates `fit`, `evaluate`
/// and `export_torchscript` for this type alone serves every transform, backbone and remap:
///
///     AnyPipeline defense{transforms::UNet<>{.image = image}, freeze(backbones::AnyBackbone{victim}),
///                         remaps::Derangement<>{.classes = 10}};
using AnyPipeline =
    Pipeline<transforms::AnyTransform, backbones::Frozen<backbones::AnyBackbone>, remaps::AnyRemap>;

}  // namespace refine
