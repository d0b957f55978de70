#pragma once

#include <refine/data/augmentation.hpp>

namespace refine::attacks {

/// What an attack asks of the victim's training: how images are changed besides, anew in every epoch, whether
/// that holds for poisoned images too, and whether those may be mirrored.
struct Demand {
  enum class Of { every_image, clean_images };

  data::Augmentation augmentation = {};
  Of of = Of::every_image;
  bool flip_stamped = true;  ///< false: the flip of the victim's recipe leaves poisoned images on their side
};

/// The published ones.
namespace demands {

/// The null policy.
inline constexpr Demand none = {};

/// What a camera does to a printed trigger (Li et al., 2021, `li2021physical`).
inline constexpr Demand physical = {.augmentation = {.flip = true,
                                                     .rotation = 10,
                                                     .translate = 0.1,
                                                     .scale_min = 0.8,
                                                     .scale_max = 0.9,
                                                     .brightness = 0.1}};

/// Clean images turn a little, so that only the trigger's turn means the target, and that is one way round:
/// the mirror of a turned image is turned the other way (Xu et al., 2023, `xu2023batt`).
inline constexpr Demand batt = {
    .augmentation = {.rotation = 10}, .of = Demand::Of::clean_images, .flip_stamped = false};

}  // namespace demands

}  // namespace refine::attacks
