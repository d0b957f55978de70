#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <refine/core/task.hpp>
#include <refine/data/resize.hpp>

#include "tools/refine/source.hpp"
#include "tools/refine/victim.hpp"

namespace refine::cli {

/// What the victim was asked before training, and how it answered.
struct Probed {
  std::string text = {};          ///< for the report; empty: it was not asked
  bool blank_not_finite = false;  ///< blank images, and others perhaps, get no finite logits
};

/// Decides the image size where neither the options nor the file have it, the images in `files` have several sizes and
/// the victim accepts several: reloads it at the one at which it is clearly surest, and reports that on standard error.
/// \param common the size of all images; open if they differ
/// \throws Error if it is not clear which size it is for
void choose_size(Victim& victim, const VictimOptions& options,
                 const std::vector<std::filesystem::path>& files, const ImageShape& common,
                 data::ResizeMode fit, std::uint64_t seed);

/// Probes the victim on some of the images in `files`. Reports what looks wrong on standard error.
/// \throws Error if the victim cannot be defended, its answers say next to nothing, or it looks right at another size
///   than the images have while none was specified
Probed probe_victim(const Victim& victim, const VictimOptions& options,
                    const std::vector<std::filesystem::path>& files, data::ResizeMode fit,
                    std::uint64_t seed);

/// Probes the victim on uint8 images of its own shape, whose normalisation is known.
Probed probe_victim(const Victim& victim, const std::string& name, const at::Tensor& images,
                    std::uint64_t seed);

/// Removes images that get no finite logits, and reports their files on standard error. Writes to the tensor.
void remove_images_without_finite_logits(const Victim& victim, Images& images);

}  // namespace refine::cli
