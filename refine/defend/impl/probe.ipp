#pragma once

#include <refine/defend/probe.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <exception>
#include <map>
#include <set>
#include <utility>

#include <refine/backbones/freeze.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/resize.hpp>
#include <refine/defend/detail/seconds_since.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/nn/device.hpp>

namespace refine::detail {

constexpr std::int64_t first_images = 16, few_images = 8, batch_images = 64;

/// Limits of the time that parts of the probe take. Where more is expected, fewer images are used.
constexpr double max_batch_seconds = 0.6, max_sweep_seconds = 1.5;

/// Logits on the host for float images, without gradients.
inline at::Tensor probe_logits(const backbones::AnyBackbone& victim, const at::Tensor& images) {
  c10::NoGradGuard no_grad;
  return victim.forward(images.contiguous(at::MemoryFormat::ChannelsLast)).to(at::kCPU).to(at::kDouble);
}

/// Without what softmax does not see.
inline at::Tensor centered(const at::Tensor& logits) {
  return logits - logits.mean(1, /*keepdim=*/true);
}

inline double largest(const at::Tensor& numbers) {
  return numbers.numel() == 0 ? 0 : numbers.abs().max().item<double>();
}

inline bool is_finite(const at::Tensor& numbers) {
  return at::isfinite(numbers).all().item<bool>();
}

/// What a failing call reports, in one line. Empty: it did not fail.
template <typename Call>
std::string failure_of(Call&& call) {
  try {
    call();
    return "";
  } catch (const std::exception& error) {
    return nn::describe_error(error);
  }
}

/// Parameters and buffers of the victim's module, in their order.
inline std::vector<at::Tensor> state_of(const backbones::AnyBackbone& victim) {
  std::vector<at::Tensor> state = victim.module->parameters();
  const std::vector<at::Tensor> buffers = victim.module->buffers();
  state.insert(state.end(), buffers.begin(), buffers.end());
  return state;
}

struct CandidateNormalization {
  Normalization by;
  const char* options;
};

/// The usual ones. Those of one number for all channels fit grey images, too.
inline const std::vector<CandidateNormalization>& usual_normalizations() {
  static const std::vector<CandidateNormalization> all = {
      {{}, "without --mean and --std"},
      {{{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}}, "--mean 0.5 --std 0.5"},
      {normalizations::cifar10, "--mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.2010"},
      {normalizations::imagenet, "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"},
      {{{0.1307, 0.1307, 0.1307}, {0.3081, 0.3081, 0.3081}}, "--mean 0.1307 --std 0.3081"},
      {{{0, 0, 0}, {1 / 255., 1 / 255., 1 / 255.}}, "--mean 0 --std 0.003921569"},
  };
  return all;
}

inline at::Tensor normalized_by(const Normalization& by, const at::Tensor& images) {
  const auto row = [&](const std::array<double, 3>& values) {
    std::vector<float> floats(values.begin(), images.size(1) == 1 ? values.begin() + 1 : values.end());
    return at::tensor(floats).view({1, -1, 1, 1}).to(images.device());
  };
  return (images - row(by.mean)) / row(by.deviation);
}

inline std::string size_option(const ImageShape& shape) {
  return shape.channels == 3 && shape.height == shape.width ? fmt::format("--image {}", shape.height)
                                                            : fmt::format("--image {}", shape);
}

/// True if the victim normalises by `by` itself. Asking under it again would give the same answers.
inline bool is_own_normalization(const backbones::AnyBackbone& victim, const Normalization& by,
                                 const at::Tensor& images) {
  const at::Tensor one = images.narrow(0, 0, 1);
  const at::Tensor normalized = victim.normalize(one);
  return normalized.defined() && normalized.sizes() == one.sizes() &&
         largest(normalized.to(at::kFloat) - normalized_by(by, one)) <= 1e-5;
}

/// Asks the victim under a setting.
/// \return the setting with the answers; nothing if the victim fails
REFINE_INLINE std::optional<ProbeSetting> ask(const backbones::AnyBackbone& victim, const at::Tensor& images,
                                              ProbeSetting setting) {
  const std::string failure = failure_of([&] {
    c10::NoGradGuard no_grad;
    const at::Tensor ordered = setting.bgr ? images.flip(1) : images;
    if (!setting.normalization) {
      setting.answers = answers_of(probe_logits(victim, ordered));
      return;
    }
    const at::Tensor input =
        normalized_by(*setting.normalization, ordered).contiguous(at::MemoryFormat::ChannelsLast);
    setting.answers = answers_of(victim.forward_normalized(input).to(at::kCPU).to(at::kDouble));
  });
  return failure.empty() ? std::optional(std::move(setting)) : std::nullopt;
}

/// True if a setting scales images to 0 to 255. Contrast makes any network sure, and a poor one
/// diverse; such a setting is considered only where the plain answers have at most
/// `max_information_for_bytes`.
inline bool makes_bytes(const ProbeSetting& setting) {
  return setting.normalization && setting.normalization->deviation[0] < 0.01;
}

constexpr double max_information_for_bytes = 0.25;

/// Asks under each of the usual normalisations, and in BGR under the two that look best.
/// \param plain answers to `images` under the victim's normalisation, which is not asked again
/// \param options of the command line that a setting adds its options to
/// \param with_bgr true: also in BGR
/// \param with_bytes true: also with images from 0 to 255
/// \param tried receives the settings
REFINE_INLINE void sweep_normalizations(const backbones::AnyBackbone& victim, const ImageShape& shape,
                                        const at::Tensor& images, const Answers& plain,
                                        const std::string& options, bool with_bgr, bool with_bytes,
                                        std::vector<ProbeSetting>& tried) {
  const std::int64_t channels = images.size(1);
  std::vector<ProbeSetting> rgb;
  for (const CandidateNormalization& candidate : usual_normalizations()) {
    const bool grey = candidate.by.mean[0] == candidate.by.mean[2];
    const bool only_grey = candidate.by.mean[0] == 0.1307;
    if (channels == 3 ? only_grey : !grey) continue;
    ProbeSetting setting{.image = shape, .normalization = candidate.by};
    if (makes_bytes(setting) && !with_bytes) continue;
    setting.options = fmt::format("{}{}{}", options, options.empty() ? "" : " ", candidate.options);
    if (is_own_normalization(victim, candidate.by, images)) {
      setting.answers = plain;
      rgb.push_back(std::move(setting));
    } else if (auto answered = ask(victim, images, std::move(setting))) {
      rgb.push_back(std::move(*answered));
    }
  }
  tried.insert(tried.end(), rgb.begin(), rgb.end());
  if (channels != 3 || !with_bgr) return;
  std::ranges::stable_sort(rgb, std::greater(), [](const ProbeSetting& s) { return s.answers.information; });
  rgb.resize(std::min<std::size_t>(rgb.size(), 2));
  for (ProbeSetting& setting : rgb) {
    setting.bgr = true;
    setting.options += " --bgr";
    if (auto answered = ask(victim, images, std::move(setting))) tried.push_back(std::move(*answered));
  }
}

/// The setting under which the answers look right, if there is one and it is clearly better than none.
REFINE_INLINE std::optional<ProbeSetting> better_than(const Answers& plain,
                                                      const std::vector<ProbeSetting>& tried) {
  const ProbeSetting* best = nullptr;
  double best_score = 0;
  for (const ProbeSetting& setting : tried) {
    double score = setting.answers.information;
    if (setting.bgr) score -= 0.05;  // a network that hardly looks at colours does not show its order
    if (makes_bytes(setting) && plain.information > max_information_for_bytes) continue;
    if (best && score <= best_score) continue;
    best = &setting;
    best_score = score;
  }
  if (!best || best_score < Probe::min_information || best_score < plain.information + 0.2 ||
      best_score < 1.5 * plain.information) {
    return std::nullopt;
  }
  return *best;
}

constexpr const char* export_hint =
    "export it in evaluation mode: torch.jit.trace(model.eval(), images).save(\"model.pt\")";

/// Compares the answers to a batch with those to one of its images alone, to 3 images, and to 64 if
/// they take less than `max_batch_seconds`.
/// \param found receives the findings
/// \param seconds_an_image is set to the time that the victim takes for an image
/// \return logits of `images`; undefined if the victim fails
REFINE_INLINE at::Tensor probe_batches(const backbones::AnyBackbone& victim, const at::Tensor& images,
                                       Probe& found, double& seconds_an_image) {
  const std::int64_t n = images.size(0);
  const bool exact = images.device().is_cpu();
  at::Tensor first;
  const auto start = std::chrono::steady_clock::now();
  const std::string failure = failure_of([&] { first = probe_logits(victim, images); });
  seconds_an_image = seconds_since(start) / static_cast<double>(n);
  const auto add = [&](ProbeProblem problem, std::string text) {
    found.findings.push_back({problem, std::move(text)});
  };
  if (!failure.empty() || first.dim() != 2 || first.size(0) != n) {
    add(ProbeProblem::fails,
        failure.empty()
            ? fmt::format(
                  "its answer to {} images has not one row of logits for each; export it for any batch size",
                  n)
            : fmt::format(
                  "it fails on {} images ({}); specify the image size that it was made for, or export it "
                  "for any batch size",
                  n, failure));
    return {};
  }
  // Rows of images without finite logits are compared nowhere.
  const at::Tensor finite = at::isfinite(first).all(1);
  const double scale = std::max(largest(centered(first.nan_to_num(0, 0, 0))), 1e-30);
  const auto distance = [&](const at::Tensor& logits, const at::Tensor& other, const at::Tensor& rows) {
    const at::Tensor use = finite.index_select(0, rows);
    const at::Tensor difference = centered(logits.nan_to_num(0, 0, 0)) - centered(other.nan_to_num(0, 0, 0));
    return largest(difference * use.unsqueeze(1).to(at::kDouble)) / scale;
  };
  const at::Tensor all = at::linspace(0, static_cast<double>(n - 1), n).round().to(at::kLong);
  for (const std::int64_t size : {std::int64_t{3}, std::int64_t{1}, batch_images}) {
    if (size == batch_images && seconds_an_image * batch_images > max_batch_seconds) continue;
    const at::Tensor rows = all.repeat({size / n + 2}).narrow(0, size == 1 ? 1 : 0, size);
    const at::Tensor batch = images.index_select(0, rows.to(images.device()));
    at::Tensor logits, again;
    const std::string why = failure_of([&] {
      logits = probe_logits(victim, batch);
      if (size != 3) return;
      const auto before = std::chrono::steady_clock::now();
      again = probe_logits(victim, batch);
      seconds_an_image = std::min(seconds_an_image, seconds_since(before) / static_cast<double>(size));
    });
    if (!why.empty() || logits.dim() != 2 || logits.size(0) != size || logits.size(1) != first.size(1)) {
      add(ProbeProblem::fails,
          fmt::format("it answers {} images, but not {}{}: it was exported for one batch size; export it for "
                      "any: torch.jit.script(model.eval()).save(\"model.pt\")",
                      n, size, why.empty() ? "" : " (" + why + ")"));
      return first;
    }
    if (again.defined()) {
      if (const double off = distance(again, logits, rows); off > (exact ? 1e-4 : 1e-2)) {
        add(ProbeProblem::random,
            fmt::format(
                "its answer to the same images differs from one call to the next (by {:.2g} of the largest "
                "logit): dropout or noise is active; {}",
                off, export_hint));
        return first;
      }
    }
    if (const double off = distance(logits, first.index_select(0, rows), rows); off > (exact ? 1e-3 : 2e-2)) {
      add(ProbeProblem::batch_dependent,
          fmt::format(
              "its answer to an image depends on the other images of the batch (in one of {} it "
              "differs from that in one of {} by {:.2g} of the largest logit): it was exported in "
              "training mode, where BatchNorm takes the batch's own statistics, or for one batch size; {}",
              size, n, off, export_hint));
      return first;
    }
  }
  return first;
}

REFINE_INLINE void probe_gradient(const backbones::AnyBackbone& victim, const at::Tensor& images,
                                  Probe& found) {
  constexpr const char* hint =
      "export a model whose forward is differentiable: without round(), argmax(), item() or NumPy on the way from "
      "the images to the logits";
  at::Tensor slope;
  const std::string failure = failure_of([&] {
    c10::AutoGradMode with_grad(true);
    const at::Tensor x = images.detach().clone().requires_grad_(true);
    const at::Tensor logits = victim.forward(x);
    if (!logits.requires_grad()) return;
    const at::Tensor weights =  // of a sum that softmax sees
        at::linspace(-1, 1, logits.size(1)).to(logits.device());
    (logits.to(at::kFloat) * weights).sum().backward();
    slope = x.grad();
  });
  std::string why;
  if (!failure.empty()) {
    why = "its gradient fails (" + failure + ")";
  } else if (!slope.defined()) {
    why = "no gradient of its logits reaches the images";
  } else if (!is_finite(slope)) {
    why = "the gradient of its logits with respect to the images is not finite";
  } else if (largest(slope) == 0) {
    why = "the gradient of its logits with respect to the images is zero";
  }
  if (!why.empty()) found.findings.push_back({ProbeProblem::no_gradient, why + "; " + hint});
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE Answers answers_of(const at::Tensor& logits) {
  c10::NoGradGuard no_grad;
  const std::int64_t n = logits.size(0), classes = logits.size(1);
  const at::Tensor p = at::softmax(logits.to(at::kCPU).to(at::kDouble), 1).nan_to_num(0, 0, 0);
  const auto entropy = [](const at::Tensor& q) { return -(q * q.clamp_min(1e-300).log()).sum(-1); };
  std::vector<std::int64_t> counts(static_cast<std::size_t>(classes), 0);
  for (const std::int64_t cls : detail::to_vector(p.argmax(1))) ++counts[static_cast<std::size_t>(cls)];
  const auto most = std::ranges::max_element(counts);
  Answers answers{.images = n,
                  .confidence = p.amax(1).mean().item<double>(),
                  .classes_named = static_cast<int>(counts.size() - std::ranges::count(counts, 0)),
                  .favourite = static_cast<int>(most - counts.begin()),
                  .favourite_share = static_cast<double>(*most) / static_cast<double>(n)};
  const double most_information =
      std::log(static_cast<double>(std::max<std::int64_t>(std::min(n, classes), 2)));
  const double information = (entropy(p.mean(0)) - entropy(p).mean()).item<double>();
  answers.information = std::clamp(information / most_information, 0., 1.);
  return answers;
}

REFINE_INLINE std::string Answers::describe(int classes, const std::vector<std::string>& class_names) const {
  const auto at = static_cast<std::size_t>(favourite);
  return fmt::format(
      "names {} of {} classes, {} for {:.0f} % of {} images, {:.0f} % sure on average", classes_named,
      classes, at < class_names.size() ? "'" + class_names[at] + "'" : "class " + std::to_string(favourite),
      100 * favourite_share, images, 100 * confidence);
}

REFINE_INLINE std::string Probe::describe(const std::vector<std::string>& class_names) const {
  std::string text = "the victim " + answers.describe(classes, class_names);
  if (better) {
    text += fmt::format("; {}, it {}",
                        better->options.starts_with("without") ? better->options : "with " + better->options,
                        better->answers.describe(classes, class_names));
  } else if (!tried.empty()) {
    text += "; no usual normalisation, channel order or size looks better";
  }
  return text;
}

REFINE_INLINE std::vector<ProbeSetting> probe_sizes(
    const backbones::AnyBackbone& victim, std::vector<ImageShape> sizes,
    const std::function<at::Tensor(const ImageShape&)>& images_at, double max_seconds) {
  using Clock = std::chrono::steady_clock;
  using detail::seconds_since;
  const auto area = [](const ImageShape& shape) { return static_cast<double>(shape.height) * shape.width; };
  std::ranges::stable_sort(sizes, {}, area);
  const at::Device device = default_device();
  victim.module->to(device);
  const Clock::time_point start = Clock::now();
  double seconds_a_pixel = 0;  // of the last size, which had fewer
  std::vector<ProbeSetting> tried;
  for (const ImageShape& shape : sizes) {
    ProbeSetting setting{.image = shape, .options = detail::size_option(shape)};
    const auto exceeds = [&](std::int64_t images) {
      return seconds_since(start) + seconds_a_pixel * area(shape) * static_cast<double>(images) > max_seconds;
    };
    const std::string failure = detail::failure_of([&] {
      if (exceeds(1)) return;
      const at::Tensor bytes = images_at(shape);
      const std::int64_t n = std::min(bytes.size(0), detail::first_images);
      const at::Tensor images = data::to_float(bytes.narrow(0, 0, n), device);
      const Clock::time_point first = Clock::now();
      const at::Tensor one = detail::probe_logits(victim, images.narrow(0, 0, 1));
      if (one.dim() != 2 || one.size(0) != 1 || one.size(1) != victim.task.classes) throw Error("no logits");
      seconds_a_pixel = std::max(seconds_a_pixel, seconds_since(first) / area(shape));
      if (exceeds(n)) return;
      const Clock::time_point all = Clock::now();
      setting.answers = answers_of(detail::probe_logits(victim, images));
      seconds_a_pixel = seconds_since(all) / (area(shape) * static_cast<double>(n));
    });
    if (failure.empty()) tried.push_back(std::move(setting));
  }
  return tried;
}

REFINE_INLINE Probe probe(const backbones::AnyBackbone& victim, const at::Tensor& images,
                          const ProbeOptions& options) {
  if (images.dim() != 4 || images.size(0) == 0)
    throw Error("probe: images must be N×C×H×W with N at least 1");
  const ImageShape shape = data::image_shape_of(images);
  if (!compatible(victim.task.image, shape)) {
    throw Error("probe: images must be {}, got {}", victim.task.image, shape);
  }
  Probe found;
  const at::Device device = default_device();
  victim.module->to(device);
  const at::Tensor first =
      data::to_float(images.narrow(0, 0, std::min(images.size(0), detail::first_images)), device);

  std::vector<at::Tensor> before;
  for (const at::Tensor& tensor : detail::state_of(victim)) before.push_back(tensor.detach().clone());
  double seconds_an_image = 0;
  const at::Tensor logits = detail::probe_batches(victim, first, found, seconds_an_image);
  if (!logits.defined()) return found;
  found.classes = static_cast<int>(logits.size(1));
  const auto add = [&](ProbeProblem problem, std::string text) {
    found.findings.push_back({problem, std::move(text)});
  };
  {
    const std::vector<at::Tensor> after = detail::state_of(victim);
    for (std::size_t i = 0; i < after.size(); ++i) {
      if (at::equal(after[i].nan_to_num(), before[i].nan_to_num())) continue;
      add(ProbeProblem::changes_itself,
          fmt::format("its weights or buffers change when it answers; {}", detail::export_hint));
      break;
    }
    before.clear();
  }
  const at::Tensor finite = at::isfinite(logits).all(1);
  for (const std::int64_t i : detail::to_vector(finite.logical_not().nonzero().view({-1})))
    found.not_finite.push_back(i);
  if (static_cast<std::int64_t>(found.not_finite.size()) == logits.size(0)) {
    add(ProbeProblem::not_finite,
        "its logits are not finite for any of the images (NaN or infinite); check --mean and --std, and export the "
        "model in float32");
    return found;
  }
  const std::string blank_failure = detail::failure_of([&] {
    at::Tensor blank = at::zeros({2, shape.channels, shape.height, shape.width}, first.options());
    blank[1].fill_(1);
    found.blank_not_finite = !detail::is_finite(detail::probe_logits(victim, blank));
  });
  if (!blank_failure.empty()) found.blank_not_finite = true;
  const at::Tensor usable = finite.nonzero().view({-1});
  const at::Tensor good = logits.index_select(0, usable);
  found.answers = answers_of(good);
  const auto has = [&](ProbeProblem problem) {
    return std::ranges::any_of(found.findings, [&](const ProbeFinding& f) { return f.problem == problem; });
  };
  const at::Tensor rows = detail::centered(good);
  if (rows.size(0) > 1 && !has(ProbeProblem::random)) {
    if (at::equal(first, first.narrow(0, 0, 1).expand_as(first))) {
      add(ProbeProblem::constant,
          fmt::format(
              "the {} clean images that it was asked about are identical; specify a folder of different ones",
              first.size(0)));
    } else if (detail::largest(rows - rows.narrow(0, 0, 1)) <=
               1e-6 * std::max(detail::largest(rows), 1e-30)) {
      add(ProbeProblem::constant,
          fmt::format(
              "its answer is the same for {} different images; check --mean, --std and --image, or export the "
              "model anew",
              rows.size(0)));
    }
  }
  constexpr std::int64_t gradient_images = 4;
  const at::Tensor some = usable.narrow(0, 0, std::min(usable.size(0), gradient_images)).to(device);
  detail::probe_gradient(victim, first.index_select(0, some), found);

  const bool swept = options.sweep && found.looks_wrong() && !has(ProbeProblem::random) &&
                     !has(ProbeProblem::batch_dependent) && !has(ProbeProblem::fails);
  if (!swept) return found;
  const auto at_shape = [&](const ImageShape& other) {
    if (other == shape) return images;
    return options.images_at ? options.images_at(other) : data::resize(images, other.height, other.width);
  };
  constexpr double usual_settings = 7;
  const bool costly =
      usual_settings * static_cast<double>(first.size(0)) * seconds_an_image > detail::max_sweep_seconds;
  const auto some_of = [&](const at::Tensor& bytes, std::int64_t max_images) {
    return data::to_float(bytes.narrow(0, 0, std::min(bytes.size(0), max_images)), device);
  };
  const std::int64_t max_images = costly ? detail::few_images : detail::first_images;
  const bool with_bytes = found.answers.information <= detail::max_information_for_bytes;
  const auto choose = [&] {
    found.better = detail::better_than(found.answers, found.tried);
    if (!found.better || found.better->answers.images >= found.answers.images) return;
    const at::Tensor all = some_of(at_shape(found.better->image), detail::first_images);
    const auto confirmed = detail::ask(victim, all, *found.better);
    found.better =
        confirmed ? detail::better_than(found.answers, {*confirmed}) : std::optional<ProbeSetting>();
  };
  const at::Tensor plain = logits.narrow(0, 0, std::min(logits.size(0), max_images));
  detail::sweep_normalizations(victim, shape, first.narrow(0, 0, plain.size(0)), answers_of(plain), "", true,
                               with_bytes, found.tried);
  choose();
  constexpr double clear = 0.8;
  if (found.better && found.better->answers.information >= clear && !detail::makes_bytes(*found.better))
    return found;
  const auto start = std::chrono::steady_clock::now();
  std::vector<ImageShape> others = options.sizes;
  std::erase(others, shape);
  const std::vector<ProbeSetting> at_sizes = probe_sizes(victim, others, at_shape, options.max_size_seconds);
  found.tried.insert(found.tried.end(), at_sizes.begin(), at_sizes.end());
  choose();
  if (found.better) return found;
  for (const ProbeSetting& setting : at_sizes) {  // both may be wrong; smaller images cost little
    const std::int64_t area = std::int64_t{setting.image.height} * setting.image.width;
    if (setting.answers.images == 0 ||
        area > std::min<std::int64_t>(64 * 64, images.size(2) * images.size(3))) {
      continue;
    }
    if (detail::seconds_since(start) > options.max_size_seconds) break;
    detail::sweep_normalizations(victim, setting.image, some_of(at_shape(setting.image), max_images),
                                 setting.answers, setting.options, false, with_bytes, found.tried);
  }
  choose();
  return found;
}

REFINE_INLINE void check_probe(const Probe& probe, const std::string& name,
                               const std::vector<std::string>& class_names) {
  if (!probe.findings.empty()) throw Error("cannot defend {}: {}", name, probe.findings.front().text);
  if (probe.is_surely_wrong()) {
    throw Error("cannot defend {}: {}; specify what looks right, or --no_probe to go on unchanged", name,
                probe.describe(class_names));
  }
}

REFINE_INLINE std::vector<std::int64_t> images_without_finite_logits(const backbones::AnyBackbone& victim,
                                                                     const at::Tensor& images) {
  const at::Device device = default_device();
  victim.module->to(device);
  const at::Tensor finite =
      map_batches([&](const at::Tensor& x) { return at::isfinite(victim.forward(x)).all(1).to(at::kLong); },
                  images, device, [](std::int64_t) {});
  if (!finite.defined()) return {};
  return detail::to_vector(finite.logical_not().nonzero().view({-1}));
}

}  // namespace refine

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
                                                     .resize_mode = resize_,
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

/// True if a classifier accepts images of another size than its task's, so that nothing in its file settles the
/// size. A ViT or a layer behind `flatten` refuses them.
inline bool accepts_other_sizes(const LoadedClassifier& victim) {
  const ImageShape image = victim.task().image;
  constexpr int step = 32;  // less could leave the last feature map unchanged
  const ImageShape larger{image.channels, image.height + step, image.width + step};
  const auto blank = [](const ImageShape& shape) {
    return at::zeros({1, shape.channels, shape.height, shape.width}, at::kByte);
  };
  return !probe_sizes(frozen_form(victim), {larger}, blank).empty();
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
    options.images = data::common_shape(files);
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
  const ImageShape shape = victim.task().image;
  const bool is_size_of_images = !victim.is_image_known && !load.images.is_static() &&
                                 shape.height == options.images.height && shape.width == options.images.width;
  // Last, so that a refusal is one line.
  const auto note_size = [&] {
    if (!is_size_of_images || !shape.is_static() || !detail::accepts_other_sizes(victim)) return;
    detail::note(
        load.notify,
        fmt::format("the image size {} is that of the images; the file does not have the size that the "
                    "model was trained with: specify --image if it is another",
                    shape));
  };
  if (!probe) {
    note_size();
    return {std::move(victim), std::nullopt};
  }

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
  note_size();
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

REFINE_INLINE MirrorAgreement mirror_agreement(const backbones::AnyBackbone& victim,
                                               const at::Tensor& images) {
  constexpr std::int64_t max_asked = 512;
  const std::int64_t width = images.size(3);
  std::vector<std::int64_t> columns;
  const std::int64_t shift = std::max<std::int64_t>(width / 32, 1);
  for (std::int64_t c = 0; c < width; ++c) columns.push_back(std::max<std::int64_t>(c - shift, 0));
  const at::Tensor some = data::evenly_spread(images, max_asked);
  const at::Device device = nn::device_of(*victim.module).value_or(default_device());
  const auto classes = [&](const auto& change) {
    return classify([&](const at::Tensor& x) { return victim.forward(x); }, some, device, [](std::int64_t) {},
                    change);
  };
  const auto plain = classes([](const at::Tensor& x) { return x; });
  const auto mirrored = classes([](const at::Tensor& x) { return x.flip(3); });
  const auto shifted =
      classes([&](const at::Tensor& x) { return x.index_select(3, at::tensor(columns, at::kLong)); });
  return {.mirrored = metrics::share_equal(plain, mirrored), .shifted = metrics::share_equal(plain, shifted)};
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
