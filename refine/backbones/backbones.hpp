#pragma once

/// \namespace refine::backbones
/// Classifiers: the victims that are trained and, frozen, the fixed part of a defense. All of them
/// model the concept `Backbone`: float images N×C×H×W in [0, 1] in, logits N×classes out. A network
/// that needs normalised images is wrapped in `Normalized`.
///
///     const backbones::ResNet18<tasks::cifar10> network{.width = 32, .seed = 7};
///     const backbones::Normalized victim{network, normalizations::cifar10};
///     // ... train it ...
///     const auto frozen = freeze(victim);
///     const at::Tensor logits = frozen.forward(images);
///
/// Networks by name are in `backbones/zoo.hpp`, TorchScript files as backbones in
/// `programs/torchscript.hpp`; this header does not include them, because they take long to
/// compile.

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/backbones/densenet.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/inception.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vgg.hpp>
#include <refine/backbones/vit.hpp>
