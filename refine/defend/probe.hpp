#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/defend/images.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/notice.hpp>
#include <refine/metrics/proportion.hpp>

namespace refine {

/// Statistics of a classifier's answers to a few images, without labels.
struct Answers {
  std::int64_t images = 0;     ///< number of images
  double confidence = 0;       ///< mean probability of the predicted class
  int classes_named = 0;       ///< number of distinct predicted classes
  int favourite = 0;           ///< the class that is predicted most often
  double favourite_share = 0;  ///< share of the images that get it
  /// Mutual information of image and predicted class, divided by the largest possible, in [0, 1]:
  /// near 1 if the classifier is sure of each image and names many classes, near 0 if it is unsure
  /// or always says the same.
  double information = 0;

  /// Returns one line: "names 1 of 10 classes, class 3 for 100 % of 16 images, 96 % sure on
  /// average".
  std::string describe(int classes, const std::vector<std::string>& class_names = {}) const;
};

/// Summarizes logits.
/// \param logits float N×classes
Answers answers_of(const at::Tensor& logits);

/// A setting under which a classifier was asked.
struct ProbeSetting {
  ImageShape image = {};                                      ///< shape of the images
  std::optional<Normalization> normalization = std::nullopt;  ///< nothing: unchanged
  bool bgr = false;                                           ///< channels are blue, green, red
  std::string options = {};  ///< of the command line, as "--mean 0.5 --std 0.5"; empty: unchanged
  Answers answers = {};      ///< under this setting
};

/// Why a classifier cannot be defended.
enum class ProbeProblem {
  fails,            ///< forward fails for some number of images
  random,           ///< the same images get another answer each time
  batch_dependent,  ///< an image gets another answer in another batch
  changes_itself,   ///< parameters or buffers change when it answers
  constant,         ///< all images get the same answer, or are the same image
  no_gradient,      ///< no gradient of the logits reaches the images, or one that is not finite
  not_finite,       ///< no image gets finite logits
};

/// A reason to refuse a classifier.
struct ProbeFinding {
  ProbeProblem problem;  ///< its kind

  std::string text;  ///< "problem; hint"
};

/// How a classifier is probed.
struct ProbeOptions {
  /// Other image shapes to try if the answers look wrong, such as those that a pooling network
  /// accepts.
  std::vector<ImageShape> sizes = {};
  /// Returns the probed images at another shape, uint8. Empty: they are resized.
  std::function<at::Tensor(const ImageShape&)> images_at = {};
  /// Try other normalisations, channel orders and sizes if the answers look wrong.
  bool sweep = true;
  double max_size_seconds = 1.5;  ///< sizes that are expected to take longer are not tried
};

/// What `probe` found.
struct Probe {
  int classes = 0;                            ///< number of classes
  Answers answers = {};                       ///< to the images unchanged
  std::vector<ProbeFinding> findings = {};    ///< reasons to refuse the classifier
  std::vector<std::int64_t> not_finite = {};  ///< positions of images whose logits are not finite
  bool blank_not_finite = false;              ///< the logits of a black or a white image are not finite
  std::vector<ProbeSetting> tried = {};       ///< empty if the answers looked right
  std::optional<ProbeSetting> better = std::nullopt;  ///< a setting under which the answers look right

  /// True if the answers look wrong: unsure, or nearly always the same class.
  bool looks_wrong() const { return answers.information < min_information; }

  /// True if the answers say next to nothing, and another setting is clearly right.
  bool is_surely_wrong() const { return better && answers.information < 0.1; }

  /// Returns one line: what was seen, and which option looks right.
  /// \param class_names in the order of the logits, or none
  std::string describe(const std::vector<std::string>& class_names = {}) const;

  static constexpr double min_information = 0.5;  ///< answers below it look wrong
};

/// Asks a classifier about a few of the user's images before anything is trained against it. Tests
/// in this order: whether it answers the same images alike twice, alone and in batches of 3, 16 and
/// 64 (of 64 if they take less than 0.6 s); whether its weights change meanwhile; whether a finite
/// gradient other than zero reaches the images; whether its logits are finite, also for a black and
/// a white image; and how sure it is. If it is unsure or one-sided, it is asked again under the
/// usual normalisations, with the channels reversed and, if that leaves doubt, at `options.sizes`.
/// Where this takes long, 8 images are used, and all 16 under the setting that looks right.
///
/// \param victim the classifier
/// \param images uint8 N×C×H×W, of the kind that the classifier is for, drawn at random; the first
///   16 are used, and labels are not needed
/// \param options what is asked
/// \throws Error if there are no images, or they do not fit `victim.task`
Probe probe(const backbones::AnyBackbone& victim, const at::Tensor& images, const ProbeOptions& options = {});

/// Probes the form of the classifier that a defense uses: `freeze(victim)`.
template <backbones::Backbone B>
Probe probe(const B& victim, const at::Tensor& images, const ProbeOptions& options = {}) {
  return probe(backbones::AnyBackbone(freeze(victim)), images, options);
}

/// Asks `victim` at each of `sizes`, small ones first. Sizes that it refuses are left out; sizes
/// that would exceed `max_seconds` in total have 0 images in their answers.
/// \param victim the classifier
/// \param sizes to ask at
/// \param images_at returns the images at a shape, uint8 N×C×H×W
/// \param max_seconds for all sizes
std::vector<ProbeSetting> probe_sizes(const backbones::AnyBackbone& victim, std::vector<ImageShape> sizes,
                                      const std::function<at::Tensor(const ImageShape&)>& images_at,
                                      double max_seconds = 30);

/// Refuses a classifier that cannot be defended.
/// \param probe the result of `probe`
/// \param name of the classifier, for the message
/// \param class_names in the order of the logits, or none
/// \throws Error if the classifier cannot be defended, or the answers say next to nothing and
///   another setting is clearly right
void check_probe(const Probe& probe, const std::string& name,
                 const std::vector<std::string>& class_names = {});

/// Returns the positions of images whose logits are not finite, such as blank images if the
/// classifier standardises each image. Runs over all images, in batches.
/// \param victim the classifier
/// \param images uint8 N×C×H×W
std::vector<std::int64_t> images_without_finite_logits(const backbones::AnyBackbone& victim,
                                                       const at::Tensor& images);

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
/// size at which the classifier is clearly surest of several that it accepts. A note reports that it
/// is the images' size, unless the classifier accepts no other.
///
///     const auto [victim, found] = load_and_probe("untrusted.pt", "clean/");
///     const FolderImages images = read_folder_images("clean/", victim.task().image);
///
/// \param model the classifier's file
/// \param folder clean images in any layout; labels are not needed
/// \param load what the file does not say. `load.images` replaces the images' common size;
///   `load.notify` receives notes, and a warning if the answers look wrong.
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

/// How a classifier answers mirrored images, without labels.
struct MirrorAgreement {
  metrics::Proportion mirrored = {};  ///< images that keep their class when they are mirrored left to right
  metrics::Proportion shifted = {};   ///< images that keep it when they are shifted by a 32nd of their width

  /// True if mirroring changes the answers clearly more often than a shift does, as for traffic signs,
  /// digits and text: to this classifier, a mirrored image shows something else.
  bool is_mirror_different() const {
    return mirrored.n > 0 && mirrored.wilson().high < min_ratio * shifted.value();
  }

  static constexpr double min_ratio = 0.9;  ///< mirrored to shifted, where flips make sense
};

/// Asks a classifier about images, mirrored and shifted.
/// \param victim the classifier
/// \param images uint8 N×C×H×W; at most 512, evenly spaced, are used
MirrorAgreement mirror_agreement(const backbones::AnyBackbone& victim, const at::Tensor& images);

/// Removes images that get no finite logits, such as blank ones where the victim standardises each
/// image. Their files are reported on standard error. Writes to the tensor of images.
void remove_images_without_finite_logits(const LoadedClassifier& victim, FolderImages& images);

/// Returns image sizes that are usual for classifiers, with as many channels as `image`.
std::vector<ImageShape> usual_image_sizes(const ImageShape& image);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/probe.ipp>
#endif
