#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <refine/core/image_shape.hpp>
#include <refine/core/seed.hpp>
#include <refine/triggers/any_trigger.hpp>

namespace refine {

/// A trigger to try, and what a report calls it.
struct NamedTrigger {
  std::string name;
  triggers::AnyTrigger trigger;
  bool local = true;  ///< changes a small part of the image only
};

/// Fourteen triggers as they were published, for images of one shape: patches, blended noise, warps and
/// rotations. Noise and warp are drawn from the seed: an attacker's own picture is another, and is missed.
/// Images too small for the larger patch or the warps do without them.
/// \throws Error when the shape is not fixed, or too small for a patch
std::vector<NamedTrigger> scan_catalogue(const ImageShape& image, std::uint64_t seed = default_seed);

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/evaluation/scan_catalogue_definitions.hpp>
#endif
