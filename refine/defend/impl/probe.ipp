#pragma once

#include <refine/defend/probe.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <exception>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/data/detail/pixels.hpp>
#include <refine/data/resize.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/nn/device.hpp>

namespace refine::detail {

constexpr std::int64_t first_images = 16, batch_images = 64;

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
  } catch (const c10::Error& error) {
    return one_line(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return one_line(error.what());
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
  return shape.channels == 3 && shape.height == shape.width
             ? fmt::format("--image {}", shape.height)
             : fmt::format("--image {}x{}x{}", shape.channels, shape.height, shape.width);
}

/// Asks under each of the usual normalisations, and in BGR under the two that look best.
REFINE_INLINE void sweep_normalizations(const backbones::AnyBackbone& victim, const ImageShape& shape,
                                        const at::Tensor& images, const std::string& options, bool with_bgr,
                                        std::vector<ProbeSetting>& tried) {
  const auto ask = [&](ProbeSetting setting) -> std::optional<ProbeSetting> {
    c10::NoGradGuard no_grad;
    const at::Tensor ordered = setting.bgr ? images.flip(1) : images;
    const at::Tensor input =
        normalized_by(*setting.normalization, ordered).contiguous(at::MemoryFormat::ChannelsLast);
    const std::string failure = failure_of(
        [&] { setting.answers = answers_of(victim.forward_normalized(input).to(at::kCPU).to(at::kDouble)); });
    return failure.empty() ? std::optional(std::move(setting)) : std::nullopt;
  };
  const std::int64_t channels = images.size(1);
  std::vector<ProbeSetting> rgb;
  for (const CandidateNormalization& candidate : usual_normalizations()) {
    const bool grey = candidate.by.mean[0] == candidate.by.mean[2];
    const bool only_grey = candidate.by.mean[0] == 0.1307;
    if (channels == 3 ? only_grey : !grey) continue;
    ProbeSetting setting{.image = shape, .normalization = candidate.by};
    setting.options = fmt::format("{}{}{}", options, options.empty() ? "" : " ", candidate.options);
    if (auto asked = ask(std::move(setting))) rgb.push_back(std::move(*asked));
  }
  tried.insert(tried.end(), rgb.begin(), rgb.end());
  if (channels != 3 || !with_bgr) return;
  std::ranges::stable_sort(rgb, std::greater(), [](const ProbeSetting& s) { return s.answers.information; });
  rgb.resize(std::min<std::size_t>(rgb.size(), 2));
  for (ProbeSetting& setting : rgb) {
    setting.bgr = true;
    setting.options += " --bgr";
    if (auto asked = ask(std::move(setting))) tried.push_back(std::move(*asked));
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
    // Contrast makes any network sure, and a poor one diverse: bytes only where the answers said nothing.
    const bool bytes = setting.normalization && setting.normalization->deviation[0] < 0.01;
    if (bytes && plain.information > 0.25) continue;
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

/// The answers to a batch, alone and in other batches. \return logits of `images`; undefined if it fails
REFINE_INLINE at::Tensor probe_batches(const backbones::AnyBackbone& victim, const at::Tensor& images,
                                       Probe& found) {
  const std::int64_t n = images.size(0);
  const bool exact = images.device().is_cpu();
  at::Tensor first, again;
  const std::string failure = failure_of([&] {
    first = probe_logits(victim, images);
    again = probe_logits(victim, images);
  });
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
  const at::Tensor reference = centered(first.nan_to_num(0, 0, 0));
  const double scale = std::max(largest(reference), 1e-30);
  const auto distance = [&](const at::Tensor& logits, const at::Tensor& rows) {
    const at::Tensor use = finite.index_select(0, rows);
    const at::Tensor difference = centered(logits.nan_to_num(0, 0, 0)) - reference.index_select(0, rows);
    return largest(difference * use.unsqueeze(1).to(at::kDouble)) / scale;
  };
  const at::Tensor all = at::linspace(0, static_cast<double>(n - 1), n).round().to(at::kLong);
  if (const double off = distance(again, all); off > (exact ? 1e-4 : 1e-2)) {
    add(ProbeProblem::random,
        fmt::format(
            "its answer to the same images differs from one call to the next (by {:.2g} of the largest "
            "logit): dropout or noise is active; {}",
            off, export_hint));
    return first;
  }
  for (const std::int64_t size : {std::int64_t{1}, std::int64_t{3}, batch_images}) {
    const int rounds = size == 1 ? static_cast<int>(std::min<std::int64_t>(n, 3)) : 1;
    for (int round = 0; round < rounds; ++round) {
      const at::Tensor rows = all.repeat({size / n + 2}).narrow(0, round, size);
      at::Tensor logits;
      const std::string why = failure_of(
          [&] { logits = probe_logits(victim, images.index_select(0, rows.to(images.device()))); });
      if (!why.empty() || logits.dim() != 2 || logits.size(0) != size || logits.size(1) != first.size(1)) {
        add(ProbeProblem::fails,
            fmt::format(
                "it answers {} images, but not {}{}: it was exported for one batch size; export it for "
                "any: torch.jit.script(model.eval()).save(\"model.pt\")",
                n, size, why.empty() ? "" : " (" + why + ")"));
        return first;
      }
      if (const double off = distance(logits, rows); off > (exact ? 1e-3 : 2e-2)) {
        add(ProbeProblem::batch_dependent,
            fmt::format(
                "its answer to an image depends on the other images of the batch (in one of {} it "
                "differs from that in one of {} by {:.2g} of the largest logit): it was exported in "
                "training mode, where BatchNorm takes the batch's own statistics, or for one batch size; {}",
                size, n, off, export_hint));
        return first;
      }
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
  for (const std::int64_t cls : to_vector(p.argmax(1))) ++counts[static_cast<std::size_t>(cls)];
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
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
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
  const ImageShape shape{static_cast<int>(images.size(1)), static_cast<int>(images.size(2)),
                         static_cast<int>(images.size(3))};
  if (!compatible(victim.task.image, shape)) {
    Message text;
    text << "probe: images must be " << victim.task.image << ", got " << shape;
    throw Error(std::string(text.view()));
  }
  Probe found;
  const at::Device device = default_device();
  victim.module->to(device);
  const at::Tensor first =
      data::to_float(images.narrow(0, 0, std::min(images.size(0), detail::first_images)), device);

  std::vector<at::Tensor> before;
  for (const at::Tensor& tensor : detail::state_of(victim)) before.push_back(tensor.detach().clone());
  const at::Tensor logits = detail::probe_batches(victim, first, found);
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
  for (const std::int64_t i : to_vector(finite.logical_not().nonzero().view({-1})))
    found.not_finite.push_back(i);
  if (static_cast<std::int64_t>(found.not_finite.size()) == logits.size(0)) {
    add(ProbeProblem::not_finite,
        "its logits are not finite for any of the images (NaN or infinite); check --mean and --std, and export the "
        "model in float32");
    return found;
  }
  for (const double grey : {0., 1.}) {
    const auto& sizes = first.sizes();
    const std::string failure = detail::failure_of([&] {
      const at::Tensor blank = at::full({1, sizes[1], sizes[2], sizes[3]}, grey, first.options());
      if (!detail::is_finite(detail::probe_logits(victim, blank))) found.blank_not_finite = true;
    });
    if (!failure.empty()) found.blank_not_finite = true;
  }
  const at::Tensor usable = finite.nonzero().view({-1});
  const at::Tensor good = logits.index_select(0, usable);
  found.answers = answers_of(good);
  const auto has = [&](ProbeProblem problem) {
    return std::ranges::any_of(found.findings, [&](const ProbeFinding& f) { return f.problem == problem; });
  };
  const at::Tensor rows = detail::centered(good);
  if (rows.size(0) > 1 && !has(ProbeProblem::random) &&
      detail::largest(rows - rows.narrow(0, 0, 1)) <= 1e-6 * std::max(detail::largest(rows), 1e-30)) {
    add(ProbeProblem::constant,
        fmt::format(
            "its answer is the same for {} different images; check --mean, --std and --image, or export the "
            "model anew",
            rows.size(0)));
  }
  constexpr std::int64_t gradient_images = 8;
  const at::Tensor some = usable.narrow(0, 0, std::min(usable.size(0), gradient_images)).to(device);
  detail::probe_gradient(victim, first.index_select(0, some), found);

  const bool swept = options.sweep && found.looks_wrong() && !has(ProbeProblem::random) &&
                     !has(ProbeProblem::batch_dependent) && !has(ProbeProblem::fails);
  if (!swept) return found;
  const auto at_shape = [&](const ImageShape& other) {
    if (other == shape) return images;
    return options.images_at ? options.images_at(other) : data::resize(images, other.height, other.width);
  };
  const auto some_of = [&](const at::Tensor& bytes) {
    return data::to_float(bytes.narrow(0, 0, std::min(bytes.size(0), detail::first_images)), device);
  };
  detail::sweep_normalizations(victim, shape, first, "", true, found.tried);
  std::vector<ImageShape> others = options.sizes;
  std::erase(others, shape);
  const std::vector<ProbeSetting> at_sizes = probe_sizes(victim, others, at_shape, options.max_size_seconds);
  found.tried.insert(found.tried.end(), at_sizes.begin(), at_sizes.end());
  found.better = detail::better_than(found.answers, found.tried);
  if (!found.better) {  // both may be wrong; smaller images cost little
    for (const ProbeSetting& setting : at_sizes) {
      const std::int64_t area = std::int64_t{setting.image.height} * setting.image.width;
      if (setting.answers.images == 0 ||
          area > std::min<std::int64_t>(64 * 64, images.size(2) * images.size(3))) {
        continue;
      }
      detail::sweep_normalizations(victim, setting.image, some_of(at_shape(setting.image)), setting.options,
                                   false, found.tried);
    }
    found.better = detail::better_than(found.answers, found.tried);
  }
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
      in_batches([&](const at::Tensor& x) { return at::isfinite(victim.forward(x)).all(1).to(at::kLong); },
                 images, device, [](std::int64_t) {});
  if (!finite.defined()) return {};
  return to_vector(finite.logical_not().nonzero().view({-1}));
}

}  // namespace refine
