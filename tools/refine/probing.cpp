#include "tools/refine/probing.hpp"

#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/text.hpp>
#include <refine/data/image_files.hpp>
#include <refine/defend/probe.hpp>

namespace refine::cli {
namespace {

namespace fs = std::filesystem;
using backbones::AnyBackbone;

constexpr std::int64_t probed_images = 16;

AnyBackbone frozen(const Victim& victim) {
  return AnyBackbone(freeze(victim.backbone));
}

std::string text_of(const ImageShape& shape) {
  Message text;
  text << shape;
  return std::string(text.view());
}

/// Some of the files, the same ones at every size.
class Sample {
 public:
  Sample(const std::vector<fs::path>& files, data::ResizeMode fit, std::uint64_t seed)
      : files_(files), fit_(fit), seed_(seed) {}

  const at::Tensor& at(const ImageShape& shape) {
    const std::string key = text_of(shape);
    const auto found = read_.find(key);
    if (found != read_.end()) return found->second;
    return read_[key] = data::load_images(files_, {.image = shape,
                                                   .fit = fit_,
                                                   .on_bad = data::OnDecodeError::skip,
                                                   .most = probed_images,
                                                   .seed = derived_seed(seed_, "probe")})
                            .images;
  }

 private:
  const std::vector<fs::path>& files_;
  data::ResizeMode fit_;
  std::uint64_t seed_;
  std::map<std::string, at::Tensor> read_;
};

/// The size at which a victim is clearly surest, of several that it accepts.
/// \throws Error if it is not clear
ImageShape clearest(std::vector<ProbeSetting> settings, const std::string& name, int classes) {
  std::ranges::stable_sort(settings, [](const ProbeSetting& a, const ProbeSetting& b) {
    return a.answers.information > b.answers.information;
  });
  const ProbeSetting &best = settings[0], &second = settings[1];
  constexpr double clear = 0.15;
  const bool complete =
      std::ranges::all_of(settings, [](const ProbeSetting& s) { return s.answers.images > 0; });
  if (complete && best.answers.information >= Probe::min_information &&
      best.answers.information >= second.answers.information + clear) {
    std::cerr << fmt::format(
        "the images have several sizes, and the victim accepts several; taking {}, "
        "where it {} (next: {}, {})\n",
        best.options, best.answers.describe(classes), second.options, second.answers.describe(classes));
    return best.image;
  }
  std::string accepted;
  std::ranges::sort(settings, {}, [](const ProbeSetting& s) { return s.image.height; });
  for (const ProbeSetting& setting : settings) {
    accepted += fmt::format("{}{}", accepted.empty() ? "" : ", ", text_of(setting.image));
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

Probed reported(const Probe& found, const Victim& victim, const std::string& name) {
  check_probe(found, name, victim.class_names);
  const std::string text = found.describe(victim.class_names);
  if (found.looks_wrong()) std::cerr << "warning: " << printable(text) << '\n';
  return {.text = text, .blank_not_finite = found.blank_not_finite || !found.not_finite.empty()};
}

}  // namespace

void choose_size(Victim& victim, const VictimOptions& options, const std::vector<fs::path>& files,
                 const ImageShape& common, data::ResizeMode fit, std::uint64_t seed) {
  if (victim.image_known || common.is_static()) return;
  Sample sample(files, fit, seed);
  const std::vector<ProbeSetting> settings =
      probe_sizes(frozen(victim), usual_sizes(victim.backbone.task.image),
                  [&](const ImageShape& shape) { return sample.at(shape); });
  if (settings.size() < 2) return;
  VictimOptions at_size = options;
  const ImageShape image = clearest(settings, options.model, victim.backbone.task.classes);
  at_size.image = text_of(image);
  victim = load_victim(at_size, image);
}

Probed probe_victim(const Victim& victim, const VictimOptions& options, const std::vector<fs::path>& files,
                    data::ResizeMode fit, std::uint64_t seed) {
  Sample sample(files, fit, seed);
  const auto images_at = [&](const ImageShape& shape) { return sample.at(shape); };
  const std::vector<ImageShape> sizes = usual_sizes(victim.backbone.task.image);
  const ImageShape shape = victim.backbone.task.image;
  const bool sweep = !victim.normalization_known;
  const Probe found =
      probe(frozen(victim), sample.at(shape), {.sizes = sizes, .images_at = images_at, .sweep = sweep});
  if (found.findings.empty() && !victim.image_known && found.better && found.better->image != shape) {
    throw Error("cannot tell the image size that {} was made for: with images of {}, {}; specify --image",
                options.model, text_of(shape), found.describe(victim.class_names));
  }
  return reported(found, victim, options.model);
}

Probed probe_victim(const Victim& victim, const std::string& name, const at::Tensor& images,
                    std::uint64_t seed) {
  Random random(derived_seed(seed, "probe"));
  auto order = random_permutation(random, images.size(0));
  order.resize(std::min<std::size_t>(order.size(), probed_images));
  const at::Tensor some = images.index_select(0, at::tensor(order));
  return reported(probe(frozen(victim), some, {.sweep = false}), victim, name);
}

void remove_images_without_finite_logits(const Victim& victim, Images& images) {
  const std::vector<std::int64_t> bad = images_without_finite_logits(frozen(victim), images.images);
  if (bad.empty()) return;
  std::vector<std::string> lines;
  for (const std::int64_t i : bad) {
    lines.push_back(
        fmt::format("cannot use {}: the victim's logits for it are not finite, as for a blank image where "
                    "each image is standardised",
                    images.files[static_cast<std::size_t>(i)].string()));
  }
  warn_skipped(lines);
  // The last ones fill their places: the images may be more than memory holds.
  const std::set<std::int64_t> places(bad.begin(), bad.end());
  std::int64_t last = images.images.size(0);
  const std::int64_t left = last - static_cast<std::int64_t>(bad.size());
  for (const std::int64_t place : places) {
    if (place >= left) break;
    do --last;
    while (places.contains(last));
    images.images.select(0, place).copy_(images.images.select(0, last));
    images.files[static_cast<std::size_t>(place)] = images.files[static_cast<std::size_t>(last)];
    images.folders[static_cast<std::size_t>(place)] = images.folders[static_cast<std::size_t>(last)];
  }
  images.images = images.images.narrow(0, 0, left);
  images.files.resize(static_cast<std::size_t>(left));
  images.folders.resize(static_cast<std::size_t>(left));
  images.skipped += bad.size();
}

}  // namespace refine::cli
