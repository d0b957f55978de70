#pragma once

/// \namespace refine::transforms
/// Networks that rewrite images before the frozen victim sees them. The transform is the only part
/// of a defense that is trained. All of them model the concept `Transform`: float images N×C×H×W
/// in, images in [0, 1] out, of the same shape unless they draw another one (`Resized`, `Encoded`).
///
///     const transforms::UNet<tasks::cifar10> unet{.levels = 4, .width = 64};
///     const at::Tensor rewritten = unet.forward(images);
///     // ... train a Pipeline{unet, ...} ...
///     const auto frozen = freeze(unet);  // the same images, faster

#include <refine/transforms/any_transform.hpp>
#include <refine/transforms/backbone_encoder.hpp>
#include <refine/transforms/encoded.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/transforms/freeze.hpp>
#include <refine/transforms/resized.hpp>
#include <refine/transforms/transform.hpp>
#include <refine/transforms/unet.hpp>
