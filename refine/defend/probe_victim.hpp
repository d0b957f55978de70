#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/defend/folder_images.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/notice.hpp>

namespace refine {

/// What a probe found, as far as the rest of a defense needs it.
struct ProbeSummary {
  std::string text = {};          ///< one line for the report
  bool blank_not_finite = false;  ///< blank images, and perhaps others, get logits that are not finite
};

/// A classifier that was loaded for the images of a folder.
struct ProbedClassifier {
  LoadedClassifier victim;                           ///< at the image size that was decided
  std::optional<ProbeSummary> probe = std::nullopt;  ///< nothing: it was not probed
};

/// Loads a classifier for the images of a folder, and probes it on 16 of them before any other
/// work.
///
/// The image size is the first of: `load.image`, the file's, the size that all images have, the
/// size at which the classifier is clearly surest of several that it accepts.
///
///     const auto [victim, found] = load_and_probe("untrusted.pt", "clean/");
///     const FolderImages images = read_folder_images("clean/", victim.task().image);
///
/// \param model the classifier's file
/// \param folder clean images in any layout; labels are not needed
/// \param load what the file does not say. `load.images` replaces the images' common size;
///   `load.notify` receives a warning if the answers look wrong.
/// \param images how the folder is read; `resize` and `seed` are used. Without `resize`, that of the
///   classifier's file is used, else `crop`.
/// \param probe false: the classifier is not probed
/// \throws Error as `load_classifier`, if the image size is not clear, or if the classifier cannot
///   be defended
ProbedClassifier load_and_probe(const std::filesystem::path& model, const std::filesystem::path& folder,
                                const LoadOptions& load = {}, const FolderOptions& images = {},
                                bool probe = true);

/// Probes a classifier on 16 of `images`.
/// \param victim the classifier
/// \param images uint8 N×C×H×W of the victim's shape; 16 are drawn by `seed`
/// \param seed of the draw
/// \param notify receives a warning if the answers look wrong
/// \param sweep true: other normalisations and channel orders are tried if the answers look wrong
/// \throws Error if the classifier cannot be defended
ProbeSummary probe_victim(const LoadedClassifier& victim, const at::Tensor& images,
                          std::uint64_t seed = default_seed, const Notify& notify = {}, bool sweep = false);

/// Removes images that get no finite logits, such as blank ones where the victim standardises each
/// image. Their files are reported on standard error. Writes to the tensor of images.
void remove_images_without_finite_logits(const LoadedClassifier& victim, FolderImages& images);

/// Returns image sizes that are usual for classifiers, with as many channels as `image`.
std::vector<ImageShape> usual_image_sizes(const ImageShape& image);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/probe_victim.ipp>
#endif
