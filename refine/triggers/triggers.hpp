#pragma once

/// \namespace refine::triggers
/// Changes to an image that a backdoored classifier reacts to. A trigger knows nothing of labels,
/// nor of which images are stamped: that is the attack's (`refine::attacks`). Everything here
/// models `Trigger`: a struct with the shape of its images, and a function that changes a batch of
/// them.
///
/// ```cpp
/// using namespace refine;
/// const triggers::Patch<> patch{.image = {3, 32, 32}, .size = 4};
/// const at::Tensor triggered = triggers::stamp(patch, test.images);  // uint8 N×C×H×W
/// ```

#include <refine/triggers/additive.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/quantize.hpp>
#include <refine/triggers/rotate.hpp>
#include <refine/triggers/stamped.hpp>
#include <refine/triggers/trigger.hpp>
#include <refine/triggers/warp.hpp>
