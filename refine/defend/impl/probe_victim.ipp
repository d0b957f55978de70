#pragma once

#include <refine/defend/probe_victim.hpp>

#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <utility>

#include <refine/backbones/freeze.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/data/image_files.hpp>
#include <refine/defend/probe.hpp>

namespace refine::detail {

constexpr std::int64_t probed_images = 16;

/// Returns the form of the victim that a defense uses.
inline backbones::AnyBackbone frozen_form(const LoadedClassifier& victim) {
  return backbones::AnyBackbone(freeze(victim.backbone));
}

/// Some of the files, the same ones at every size.
class ImageSample {
 public:
  ImageSample(std::vector<std::filesystem::path> files, data::ResizeMode resize, std::uint64_t seed)
      : files_(std::move(files)), resize_(resize), seed_(derived_seed(seed, "probe")) {}

  const at::Tensor& of_shape(const ImageShape& shape) {
    const std::string key = fmt::format("{}", shape);
    const auto found = loaded_.find(key);
    if (found != loaded_.end()) return found->second;
    return loaded_[key] = data::load_images(files_, {.image = shape,
                                                     .fit = resize_,
                                                     .on_error = data::OnDecodeError::skip,
                                                     .max_images = probed_images,
                                                     .seed = seed_})
                              .images;
  }

 private:
  std::vector<std::filesystem::path> files_;
  data::ResizeMode resize_;
  std::uint64_t seed_;
  std::map<std::string, at::Tensor> loaded_;
};

/// Returns the size at which a victim is clearly surest, of several that it accepts.
/// \pre there are at least two settings
/// \throws Error if it is not clear
inline ImageShape clearest_size(std::vector<ProbeSetting> settings, const std::string& name, int classes,
                                const Notify& notify) {
  std::ranges::stable_sort(settings, [](const ProbeSetting& a, const ProbeSetting& b) {
    return a.answers.information > b.answers.information;
  });
  const ProbeSetting &best = settings[0], &second = settings[1];
  constexpr double clear = 0.15;
  const bool complete =
      std::ranges::all_of(settings, [](const ProbeSetting& s) { return s.answers.images > 0; });
  if (complete && best.answers.information >= Probe::min_information &&
      best.answers.information >= second.answers.information + clear) {
    note(notify,
         fmt::format("the images have several sizes, and the victim accepts several; taking {}, where it {} "
                     "(next: {}, {})",
                     best.options, best.answers.describe(classes), second.options,
                     second.answers.describe(classes)));
    return best.image;
  }
  std::string accepted;
  std::ranges::sort(settings, {}, [](const ProbeSetting& s) { return s.image.height; });
  for (const ProbeSetting& setting : settings) {
    accepted += fmt::format("{}{}", accepted.empty() ? "" : ", ", setting.image);
  }
  const bool unsure = best.answers.information < Probe::min_information;
  throw Error(
      "cannot tell the image size that {} was made for: the images have several sizes, and it accepts {}; specify "
      "--image{}",
      name, accepted,
      unsure
          ? ", and --mean and --std if it takes normalised images (it is unsure or one-sided at all of these sizes)"
          : fmt::format(", as {} or {}, where it is surest", best.options.substr(8),
                        second.options.substr(8)));
}

inline ProbeSummary summarize(const Probe& found, const LoadedClassifier& victim, const std::string& name,
                              const Notify& notify) {
  check_probe(found, name, victim.class_names);
  const std::string text = found.describe(victim.class_names);
  if (found.looks_wrong()) warn(notify, text);
  return {.text = text, .blank_not_finite = found.blank_not_finite || !found.not_finite.empty()};
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE ProbedClassifier load_and_probe(const std::filesystem::path& model,
                                              const std::filesystem::path& folder, const LoadOptions& load,
                                              const FolderOptions& images, bool probe) {
  std::vector<std::filesystem::path> files = data::image_files(folder);
  LoadOptions options = load;
  if (!options.images.is_static()) {
    options.images = data::common_shape(files, static_cast<std::int64_t>(files.size()));
  }
  const std::string name = model.string();
  LoadedClassifier victim = load_classifier(model, options);
  const data::ResizeMode resize = images.resize.value_or(victim.resize.value_or(data::ResizeMode::crop));
  detail::ImageSample sample(std::move(files), resize, images.seed);
  if (!victim.is_image_known && !options.images.is_static()) {
    const std::vector<ProbeSetting> settings =
        probe_sizes(detail::frozen_form(victim), usual_image_sizes(victim.task().image),
                    [&](const ImageShape& shape) { return sample.of_shape(shape); });
    if (settings.size() >= 2) {
      options.image = detail::clearest_size(settings, name, victim.task().classes, load.notify);
      options.images = options.image;
      victim = load_classifier(model, options);
    }
  }
  if (!probe) return {std::move(victim), std::nullopt};

  const ImageShape shape = victim.task().image;
  const Probe found =
      refine::probe(detail::frozen_form(victim), sample.of_shape(shape),
                    {.sizes = usual_image_sizes(shape),
                     .images_at = [&](const ImageShape& other) { return sample.of_shape(other); },
                     .sweep = !victim.is_normalization_known});
  if (found.findings.empty() && !victim.is_image_known && found.better && found.better->image != shape) {
    throw Error("cannot tell the image size that {} was made for: with images of {}, {}; specify --image",
                name, shape, found.describe(victim.class_names));
  }
  const ProbeSummary summary = detail::summarize(found, victim, name, load.notify);
  return {std::move(victim), summary};
}

REFINE_INLINE ProbeSummary probe_victim(const LoadedClassifier& victim, const at::Tensor& images,
                                        std::uint64_t seed, const Notify& notify, bool sweep) {
  Random random(derived_seed(seed, "probe"));
  auto order = random_permutation(random, images.size(0));
  order.resize(std::min<std::size_t>(order.size(), detail::probed_images));
  const at::Tensor some = images.index_select(0, at::tensor(order));
  return detail::summarize(probe(detail::frozen_form(victim), some, {.sweep = sweep}), victim, victim.name,
                           notify);
}

REFINE_INLINE void remove_images_without_finite_logits(const LoadedClassifier& victim, FolderImages& images) {
  const std::vector<std::int64_t> bad =
      images_without_finite_logits(detail::frozen_form(victim), images.images);
  if (bad.empty()) return;
  std::vector<std::string> lines;
  for (const std::int64_t i : bad) {
    lines.push_back(
        fmt::format("cannot use {}: the victim's logits for it are not finite, as for a blank image where "
                    "each image is standardised",
                    images.files[static_cast<std::size_t>(i)].string()));
  }
  data::warn_skipped(lines);
  const std::int64_t kept = detail::compact(
      images.images.size(0), {bad.begin(), bad.end()}, [&](std::int64_t to, std::int64_t from) {
        const auto i = static_cast<std::size_t>(to), j = static_cast<std::size_t>(from);
        images.images.select(0, to).copy_(images.images.select(0, from));
        images.files[i] = images.files[j];
        images.folders[i] = images.folders[j];
      });
  images.images = images.images.narrow(0, 0, kept);
  images.files.resize(static_cast<std::size_t>(kept));
  images.folders.resize(static_cast<std::size_t>(kept));
  images.skipped += bad.size();
}

REFINE_INLINE std::vector<ImageShape> usual_image_sizes(const ImageShape& image) {
  std::vector<ImageShape> sizes;
  for (int side : {32, 28, 48, 64, 96, 128, 224, 256, 299, 384}) {
    sizes.push_back({image.channels, side, side});
  }
  return sizes;
}

}  // namespace refine
