#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/core/task.hpp>

namespace refine {

/// How a classifier answers a few images, as far as that can be seen without labels.
struct Answers {
  std::int64_t images = 0;
  double confidence = 0;       ///< mean probability of the predicted class
  int classes_named = 0;       ///< different classes among the predictions
  int favourite = 0;           ///< the class that is predicted most often
  double favourite_share = 0;  ///< of the images
  /// Mutual information of image and predicted class, divided by the largest possible, in [0, 1]: near 1 if the
  /// classifier is sure of each image and names many classes, near 0 if it is unsure or always says the same.
  double information = 0;

  /// "names 1 of 10 classes, one of them for 100 % of 16 images, 96 % sure on average"
  std::string describe(int classes, const std::vector<std::string>& class_names = {}) const;
};

/// Summarizes logits N×classes.
Answers answers_of(const at::Tensor& logits);

/// One way of asking a classifier.
struct ProbeSetting {
  ImageShape image = {};
  std::optional<Normalization> normalization = std::nullopt;  ///< nothing: unchanged
  bool bgr = false;
  std::string options = {};  ///< of the command line, as "--mean 0.5 --std 0.5"; empty: unchanged
  Answers answers = {};
};

/// Why a classifier cannot be defended.
enum class ProbeProblem {
  fails,            ///< forward fails for some number of images
  random,           ///< the same images get another answer each time
  batch_dependent,  ///< an image gets another answer in another batch
  changes_itself,   ///< parameters or buffers change when it answers
  constant,         ///< all images get the same answer
  no_gradient,      ///< no gradient of the logits reaches the images, or one that is not finite
  not_finite,       ///< no image gets finite logits
};

struct ProbeFinding {
  ProbeProblem problem;
  std::string text;  ///< "problem; hint"
};

struct ProbeOptions {
  /// Other image shapes to try if the answers look wrong, such as those that a pooling network accepts.
  std::vector<ImageShape> sizes = {};
  /// Returns the probed images at another shape, uint8. Empty: they are resized.
  std::function<at::Tensor(const ImageShape&)> images_at = {};
  /// Try other normalisations, channel orders and sizes if the answers look wrong.
  bool sweep = true;
  double max_size_seconds = 2;  ///< sizes that are expected to take longer are not tried
};

/// What `probe` found.
struct Probe {
  int classes = 0;
  Answers answers = {};                       ///< to the images unchanged
  std::vector<ProbeFinding> findings = {};    ///< reasons to refuse the classifier
  std::vector<std::int64_t> not_finite = {};  ///< positions of images whose logits are not finite
  bool blank_not_finite = false;              ///< the logits of a black or a white image are not finite
  std::vector<ProbeSetting> tried = {};       ///< empty if the answers looked right
  std::optional<ProbeSetting> better = std::nullopt;  ///< a setting under which the answers look right

  /// True if the answers look wrong: unsure, or nearly always the same class.
  bool looks_wrong() const { return answers.information < min_information; }

  /// True if they say next to nothing, and another setting is clearly right.
  bool is_surely_wrong() const { return better && answers.information < 0.1; }

  /// One line: what was seen, and which option looks right.
  std::string describe(const std::vector<std::string>& class_names = {}) const;

  static constexpr double min_information = 0.5;
};

/// Asks a classifier about a few of the user's own images before anything is trained against it. In this order:
/// whether it answers the same images alike twice, alone and in batches of 3 and 64; whether it changes itself
/// meanwhile; whether a finite gradient other than zero reaches the images; whether its logits are finite, for a
/// black and a white image too; and how sure it is. If it is unsure or one-sided, it is asked again under the
/// usual normalisations, with the channels reversed and at `options.sizes`.
///
/// \param images uint8 N×C×H×W, of the kind that the classifier is for, drawn at random; the first 16 are used, and
///   labels are not needed
/// \throws Error if there are no images, or they do not fit `victim.task`
Probe probe(const backbones::AnyBackbone& victim, const at::Tensor& images, const ProbeOptions& options = {});

/// Probes the form of the classifier that a defense uses: `freeze(victim)`.
template <backbones::Backbone B>
Probe probe(const B& victim, const at::Tensor& images, const ProbeOptions& options = {}) {
  return probe(backbones::AnyBackbone(freeze(victim)), images, options);
}

/// Asks `victim` at each of `sizes`, small ones first. Those that it refuses are left out; those that would exceed
/// `max_seconds` in total have 0 images in their answers.
std::vector<ProbeSetting> probe_sizes(const backbones::AnyBackbone& victim, std::vector<ImageShape> sizes,
                                      const std::function<at::Tensor(const ImageShape&)>& images_at,
                                      double max_seconds = 30);

/// \param name of the classifier, for the message
/// \throws Error if the classifier cannot be defended, or the answers say next to nothing and another setting is
///   clearly right
void check_probe(const Probe& probe, const std::string& name,
                 const std::vector<std::string>& class_names = {});

/// Positions of the images whose logits are not finite: those of a blank image, say, where the classifier
/// standardises each image. Runs over all images, in batches.
/// \param images uint8 N×C×H×W
std::vector<std::int64_t> images_without_finite_logits(const backbones::AnyBackbone& victim,
                                                       const at::Tensor& images);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/probe.ipp>
#endif
